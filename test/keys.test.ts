/** Signing keys: what may become one, how they take turns without anybody noticing, and how one is taken back. */
import { createPrivateKey, generateKeyPairSync, type KeyObject, sign as signBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'drizzle-orm'
import { calculateJwkThumbprint, createLocalJWKSet, decodeProtectedHeader, type JWK, jwtVerify } from 'jose'
import t, { type Test } from 'tap'
import { generateKeyPair, readKeyPair } from '../src/tokens/key-pair.ts'
import { findKeys, openPrivateKey, type StoredKey } from '../src/tokens/stored-keys.ts'
import {
  createManualClock,
  embedded,
  type Instance,
  postgresAndRedis,
  randomUser,
  type Stores,
  startInstance,
  withClient,
} from './fixtures/app.ts'
import {
  bearer,
  call,
  getProtected,
  logIn,
  type Reply,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { startPair } from './fixtures/pair.ts'
import { runCli, startServer } from './fixtures/process.ts'

const algorithms = ['ES256', 'RS256', 'EdDSA'] as const
const day = 86_400
/** How long a key is published before it signs: the max-age of the JWKS, and a minute. */
const published = 300 + 60
/** How long a key is still there that signs no more: the longest life of a token, and the margin between clocks. */
const retiring = day + 300

const root = { ...randomUser(), username: 'root' }
const asAdmin = { BOOTSTRAP_ADMIN_USERNAME: root.username, BOOTSTRAP_ADMIN_PASSWORD: root.password }

const pem = (key: KeyObject): string => key.export({ type: 'pkcs8', format: 'pem' }) as string
const jwk = (key: KeyObject): JWK => key.export({ format: 'jwk' }) as JWK
const ec = (namedCurve = 'P-256') => generateKeyPairSync('ec', { namedCurve }).privateKey

const jwksOf = async ({ url }: Instance): Promise<{ keys: JWK[] }> =>
  (await call(url, '/.well-known/jwks.json')).body
const kidsOf = async (instance: Instance) => (await jwksOf(instance)).keys.map(({ kid }) => kid)
const kidOf = (token: string) => decodeProtectedHeader(token).kid as string

t.test(
  'a key that was made or brought along has the name and the public half that others give it',
  async (t) => {
    const brought = {
      'ES256, PKCS #8': pem(ec()),
      'ES256, SEC 1': ec().export({ type: 'sec1', format: 'pem' }) as string,
      'ES256, JWK': JSON.stringify(jwk(ec())),
      'RS256, PKCS #1': generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({
        type: 'pkcs1',
        format: 'pem',
      }) as string,
      'RS256, JWK': JSON.stringify({
        ...jwk(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey),
        alg: 'RS256',
        use: 'sig',
      }),
      'EdDSA, PKCS #8': pem(generateKeyPairSync('ed25519').privateKey),
      'EdDSA, JWK': JSON.stringify(jwk(generateKeyPairSync('ed25519').privateKey)),
    }
    const pairs = [
      ...algorithms.map((alg) => [alg, generateKeyPair(alg)] as const),
      ...Object.entries(brought).map(([name, text]) => [name, readKeyPair(text)] as const),
    ]
    for (const [name, pair] of pairs) {
      t.equal(pair.alg, name.split(',')[0], name)
      t.equal(pair.kid, await calculateJwkThumbprint(pair.publicJwk as JWK), name)
      const privateMembers = ['d', 'p', 'q', 'dp', 'dq', 'qi'].filter((member) => member in pair.publicJwk)
      t.strictSame(privateMembers, [], `${name}: nothing private is published`)
      t.equal(createPrivateKey(pair.privateKey).type, 'private', name)
    }
  },
)

t.test('a weak or mismatched key stops the start, and nothing of it is told', async (t) => {
  const [one, other] = [jwk(ec()), jwk(ec())]
  const rsa = (options: object) =>
    pem(generateKeyPairSync('rsa', { modulusLength: 2048, ...options }).privateKey)
  const [rsaOne, rsaOther] = [0, 0].map(() =>
    jwk(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey),
  )
  const [edOne, edOther] = [0, 0].map(() => jwk(generateKeyPairSync('ed25519').privateKey))
  const unusable: Record<string, [string, RegExp]> = {
    'RSA of 1024 bits': [rsa({ modulusLength: 1024 }), /must have 2048 to 4096 bits/],
    'RSA with an exponent of 3': [rsa({ publicExponent: 3 }), /exponent/],
    'RSA-PSS': [
      pem(generateKeyPairSync('rsa-pss', { modulusLength: 2048 }).privateKey),
      /RSA, P-256 or Ed25519/,
    ],
    'P-384': [pem(ec('P-384')), /RSA, P-256 or Ed25519/],
    secp256k1: [pem(ec('secp256k1')), /RSA, P-256 or Ed25519/],
    X25519: [pem(generateKeyPairSync('x25519').privateKey), /RSA, P-256 or Ed25519/],
    'a public half of somebody else (EC)': [
      JSON.stringify({ ...one, x: other.x, y: other.y }),
      /belong together|no private key/,
    ],
    'a public half of somebody else (RSA)': [
      JSON.stringify({ ...rsaOne, n: rsaOther?.n }),
      /belong together|no private key/,
    ],
    'a public half of somebody else (Ed25519)': [
      JSON.stringify({ ...edOne, x: edOther?.x }),
      /belong together|no private key/,
    ],
    'another algorithm': [JSON.stringify({ ...one, alg: 'ES384' }), /another algorithm/],
    'for encryption': [JSON.stringify({ ...one, use: 'enc' }), /not for signing/],
    'for agreeing on keys': [JSON.stringify({ ...one, key_ops: ['deriveKey'] }), /not for signing/],
    'a public key': [JSON.stringify({ ...one, d: undefined }), /no private key/],
    'an encrypted one': [
      ec().export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'x' }) as string,
      /encrypted/,
    ],
    'a shared secret': [JSON.stringify({ kty: 'oct', k: 'c2VjcmV0' }), /no private key/],
    rubbish: ['rubbish', /no private key/],
    null: ['null', /no private key/],
  }
  for (const [name, [text, why]] of Object.entries(unusable))
    t.throws(() => readKeyPair(text), { message: why }, name)

  const [weak, why] = unusable['RSA of 1024 bits'] as [string, RegExp]
  const [empty, used] = [await embedded(t), await embedded(t)]
  await (await startInstance(t, { stores: used })).app.close()
  for (const stores of [empty, used]) {
    await t.rejects(startInstance(t, { stores, env: { SIGNING_KEY: weak } }), {
      message: new RegExp(`^SIGNING_KEY [^\\n]*${why.source}$`),
    })
  }
})

for (const alg of algorithms) {
  t.test(`${alg}: tokens verify here and elsewhere, and by no other algorithm`, async (t) => {
    const stores = await embedded(t)
    const instance = await startInstance(t, { stores, env: { JWT_ALG: alg } })
    const { token } = await registerAndLogIn(instance.url)
    t.equal((await getProtected(instance.url, token)).status, 200)
    const jwks = await jwksOf(instance)
    t.match(jwks.keys, [{ alg, use: 'sig', kid: kidOf(token) }])
    const { protectedHeader } = await jwtVerify(token, createLocalJWKSet(jwks), { algorithms: [alg] })
    t.strictSame(protectedHeader, { alg, kid: kidOf(token), typ: 'at+jwt' })

    // Signed with the very key, so that only the name of the algorithm is wrong.
    const { db, sealer } = instance.app.database
    const [stored] = (await findKeys(db)) as [StoredKey]
    const privateKey = openPrivateKey(sealer, stored)
    const [, claims] = token.split('.')
    for (const other of [...algorithms, 'PS256', 'ES384', 'HS256', 'none'].filter((name) => name !== alg)) {
      const header = Buffer.from(JSON.stringify({ alg: other, kid: stored.kid, typ: 'at+jwt' })).toString(
        'base64url',
      )
      const input = `${header}.${claims}`
      for (const dsaEncoding of ['der', 'ieee-p1363'] as const) {
        const hash = alg === 'EdDSA' ? null : 'sha256'
        const signature = signBytes(hash, Buffer.from(input), { key: privateKey, dsaEncoding })
        const reply = await getProtected(instance.url, `${input}.${signature.toString('base64url')}`)
        t.strictSame(refusalOf(reply), refusal('token_invalid'), `${other}, ${dsaEncoding}`)
      }
    }
  })
}

/** Two instances, or the one that an embedded store can have. */
async function world(
  t: Test,
  env: Record<string, string> = {},
  storesOf: (t: Test) => Promise<Stores> = postgresAndRedis,
) {
  const pair = await startPair(t, { ...asAdmin, ...env }, storesOf)
  const { a } = pair
  const admin = async () => (await logIn(a.url, root)).token
  const ask = async (method: string, path: string, body?: object): Promise<Reply> =>
    call(a.url, path, {
      method,
      headers: { ...bearer(await admin()), ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
    })
  return { ...pair, ask }
}

for (const storesOf of [postgresAndRedis, embedded]) {
  t.test(storesOf === embedded ? 'embedded' : 'Postgres and Redis, two instances', async (t) => {
    const { a, b, clock, ask } = await world(t, {}, storesOf)
    const states = async () => {
      const { keys } = (await ask('GET', '/admin/keys')).body
      return keys.map(({ state }: { state: string }) => state)
    }

    t.test('a rotation is noticed by nobody', async (t) => {
      const user = await registerAndLogIn(a.url)
      const before = kidOf(user.token)
      clock.advance(1)
      const made = await ask('POST', '/admin/keys')
      t.equal(made.status, 201)
      t.equal(made.headers.get('cache-control'), 'no-store')
      const { kid, active_from } = made.body
      t.match(made.body, { alg: 'ES256', state: 'next' })
      t.equal(Date.parse(active_from), clock.now() + published * 1000)

      for (const instance of [a, b]) {
        await eventually(t, async () => (await kidsOf(instance)).includes(kid))
        t.strictSame(await kidsOf(instance), [before, kid], 'published before it signs')
        t.equal(kidOf((await logIn(instance.url, user)).token), before)
      }
      const early = await ask('POST', '/admin/keys')
      t.strictSame(refusalOf(early), refusal('key_pending'), 'one step at a time')

      // Whoever fetched the keys just before it was published may keep those for so long.
      clock.advance(published - 1)
      await a.app.signingKeys.advance()
      t.strictSame(await states(), ['active', 'next'], 'not before every cache can know it')
      const last = await logIn(b.url, user)
      t.equal(kidOf(last.token), before)

      clock.advance(1)
      for (const instance of [a, b]) {
        await eventually(t, async () => kidOf((await logIn(instance.url, user)).token) === kid)
      }
      t.strictSame(await states(), ['retiring', 'active'])
      for (const { url } of [a, b]) {
        for (const { token } of [last, await logIn(url, user)])
          t.equal((await getProtected(url, token)).status, 200)
      }
      const { status, body } = await refresh(b.url, last.refreshToken)
      t.equal(status, 200, 'sessions go on')
      t.equal(kidOf(body.access_token), kid)

      clock.advance(retiring - 1)
      await a.app.signingKeys.advance()
      t.strictSame(await kidsOf(a), [before, kid], 'until its last token has expired')
      clock.advance(2) // whole seconds
      for (const instance of [a, b])
        await eventually(t, async () => !(await kidsOf(instance)).includes(before))
      t.strictSame(await states(), ['active'])
      const rows = await a.app.database.db.execute(
        sql`select sealed_private_key as key from signing_keys where kid = ${before}`,
      )
      t.strictSame(
        (rows as unknown as { rows: unknown[] }).rows,
        [{ key: null }],
        'and its private part is erased',
      )
    })

    t.test(
      'the key that signs is taken back: its tokens are dead everywhere, and sessions go on',
      async (t) => {
        const user = await registerAndLogIn(a.url)
        const kid = kidOf(user.token)
        for (const { url } of [a, b]) t.equal((await getProtected(url, user.token)).status, 200, 'warm')
        t.equal((await ask('DELETE', `/admin/keys/${kid}`)).status, 204)
        for (const { url } of [a, b]) {
          const { status, body } = await getProtected(url, user.token)
          t.equal(status, 401)
          // Once an instance has forgotten the key, nothing says any more that it was ours.
          t.match(body.code, /^token_(revoked|invalid)$/)
        }
        for (const instance of [a, b])
          await eventually(t, async () => !(await kidsOf(instance)).includes(kid))
        t.strictSame(await states(), ['active'], 'another one has taken its place')
        const { status, body } = await refresh(b.url, user.refreshToken)
        t.equal(status, 200)
        t.not(kidOf(body.access_token), kid)
        for (const { url } of [a, b]) t.equal((await getProtected(url, body.access_token)).status, 200)
        t.strictSame(refusalOf(await ask('DELETE', `/admin/keys/${kid}`)), refusal('not_found'), 'once')
      },
    )

    t.test('in an emergency the next key signs, published long enough or not', async (t) => {
      const user = await registerAndLogIn(a.url)
      const { kid } = (await ask('POST', '/admin/keys')).body
      t.equal((await ask('DELETE', `/admin/keys/${kidOf(user.token)}`)).status, 204)
      for (const instance of [a, b]) {
        await eventually(t, async () => kidOf((await logIn(instance.url, user)).token) === kid)
      }
    })

    t.test('a key that was made elsewhere may be the next one, once', async (t) => {
      const brought = { private_key: pem(generateKeyPairSync('ed25519').privateKey) }
      const { status, body } = await ask('POST', '/admin/keys', brought)
      t.equal(status, 201)
      t.match(body, { kid: readKeyPair(brought.private_key).kid, alg: 'EdDSA', state: 'next' })
      t.strictSame(refusalOf(await ask('POST', '/admin/keys', brought)), refusal('key_known'))
      t.equal((await ask('DELETE', `/admin/keys/${body.kid}`)).status, 204)
      t.strictSame(
        refusalOf(await ask('POST', '/admin/keys', brought)),
        refusal('key_known'),
        'nor ever after',
      )
    })

    t.test('a key that does not sign yet is taken back, and the one that does stays', async (t) => {
      const user = await registerAndLogIn(a.url)
      const { kid } = (await ask('POST', '/admin/keys')).body
      t.equal((await ask('DELETE', `/admin/keys/${kid}`)).status, 204)
      t.strictSame(await states(), ['active'])
      t.equal((await getProtected(b.url, user.token)).status, 200)
    })

    t.test('keys are an admin’s', async (t) => {
      const { token } = await registerAndLogIn(a.url)
      const [kid] = await kidsOf(a)
      for (const [method, path] of [
        ['GET', '/admin/keys'],
        ['POST', '/admin/keys'],
        ['DELETE', `/admin/keys/${kid}`],
      ] as const) {
        t.equal((await call(a.url, path, { method })).status, 401)
        t.equal((await call(a.url, path, { method, headers: bearer(token) })).status, 403)
      }
      t.strictSame(await states(), ['active'])
      const weak = pem(generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey)
      const reply = await ask('POST', '/admin/keys', { private_key: weak })
      t.strictSame(
        refusalOf(reply),
        refusal('invalid_request', 'The private key must have 2048 to 4096 bits.'),
      )
      for (const rubbish of ['x', '%00', `${kid}%20`, '0'.repeat(44)])
        t.equal((await ask('DELETE', `/admin/keys/${rubbish}`)).status, 400)
      t.strictSame(refusalOf(await ask('DELETE', `/admin/keys/${'0'.repeat(43)}`)), refusal('not_found'))
    })
  })
}

t.test('keys rotate by themselves, of many instances by one', async (t) => {
  const { a, b, clock, stores } = await world(t, { KEY_ROTATION_DAYS: '2', JWT_ALG: 'EdDSA' })
  const [first] = await kidsOf(a)
  clock.advance(2 * day - published - 1)
  await Promise.all([a, b].map(({ app }) => app.signingKeys.advance()))
  t.strictSame(await kidsOf(b), [first])
  clock.advance(1)
  await Promise.all([a, b, a, b].map(({ app }) => app.signingKeys.advance()))
  const kids = await kidsOf(a)
  t.equal(kids.length, 2)
  t.strictSame(await kidsOf(b), kids)
  clock.advance(published)
  // Both find that it is time before either of them has done it.
  const url = stores.env.DATABASE_URL as string
  const waiting =
    "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
  await withClient(url, async (client) => {
    await client.query('begin; select from signing_keys for update')
    const advancing = Promise.all([a, b].map(({ app }) => app.signingKeys.advance()))
    await eventually(t, () =>
      withClient(url, async (other) => ((await other.query(waiting)).rowCount ?? 0) >= 2),
    )
    await client.query('commit')
    await advancing
  })
  const steps = [...a.log, ...b.log].filter((line) => line.includes('"event":"signing_key.active"'))
  t.strictSame(
    steps.map((line) => JSON.parse(line).audit.kid),
    kids,
    'the first key once, and the second one once',
  )
  const user = await registerAndLogIn(a.url)
  t.equal(kidOf(user.token), kids[1], 'when the first one is two days old, the second one signs')
  t.equal(kidOf((await logIn(b.url, user)).token), kids[1])
})

t.test(
  'a key that was brought along signs from the first start, or after the one that is there',
  async (t) => {
    const [fresh, used] = [await embedded(t), await embedded(t)]
    const SIGNING_KEY = pem(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey)
    const { kid } = readKeyPair(SIGNING_KEY)
    const first = await startInstance(t, { stores: fresh, env: { SIGNING_KEY } })
    t.equal(kidOf((await registerAndLogIn(first.url)).token), kid)
    await first.app.close()
    const again = await startInstance(t, { stores: fresh, env: { SIGNING_KEY } })
    t.strictSame(await kidsOf(again), [kid], 'once')

    const clock = createManualClock()
    const before = await startInstance(t, { stores: used, clock })
    const user = await registerAndLogIn(before.url)
    await before.app.close()
    clock.advance(1)
    const after = await startInstance(t, { stores: used, clock, env: { SIGNING_KEY } })
    t.strictSame(await kidsOf(after), [kidOf(user.token), kid])
    t.equal(kidOf((await logIn(after.url, user)).token), kidOf(user.token))
    const another = pem(generateKeyPairSync('ed25519').privateKey)
    await after.app.close()
    const late = await startInstance(t, { stores: used, clock, env: { SIGNING_KEY: another } })
    t.strictSame(await kidsOf(late), [kidOf(user.token), kid], 'one at a time')
    t.ok(late.log.some((line) => line.includes('SIGNING_KEY is not taken')))
    clock.advance(published)
    await eventually(t, async () => kidOf((await logIn(late.url, user)).token) === kid)
  },
)

t.test('from a shell, with a service that runs', async (t) => {
  const stores = await postgresAndRedis(t)
  const env = { ISSUER: 'https://auth.test', ...stores.env }
  const server = await startServer(t, { env })
  const keys = async (...args: string[]) => {
    const { code, stdout, stderr } = await runCli(t, ['keys', ...args], { env })
    return { code, stdout, stderr, told: () => JSON.parse(stdout) }
  }
  const user = await registerAndLogIn(server.url)
  const kid = kidOf(user.token)

  t.match((await keys('list', '--json')).told(), [{ kid, alg: 'ES256', state: 'active' }])
  t.match((await keys('list')).stdout, new RegExp(`^${kid}  ES256  active  \\S+Z\\n$`))
  const rotated = await keys('rotate', '--json')
  t.match(rotated, { code: 0 })
  t.match(rotated.told(), [{ state: 'next', active_from: String }])
  t.match(await keys('rotate'), { code: 1, stdout: '', stderr: /latchkey keys rotate: .*waits/ })
  // Due by the settings of that shell, and not by those of the service.
  await withClient(stores.env.DATABASE_URL as string, (db) =>
    db.query("update signing_keys set created_at = created_at - interval '2 minutes' where state = 'next'"),
  )
  const { stdout } = await runCli(t, ['keys', 'list', '--json'], {
    env: { ...env, JWKS_MAX_AGE_SECONDS: '1' },
  })
  t.match(
    JSON.parse(stdout).find((key: { kid: string }) => key.kid === kid),
    { state: 'active' },
    'a command takes no step',
  )
  t.match(await keys('remove', '--', rotated.told()[0].kid), { code: 0, stdout: 'removed\n' })

  const folder = await mkdtemp(join(tmpdir(), 'latchkey-keys-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  const brought = pem(generateKeyPairSync('ed25519').privateKey)
  await writeFile(join(folder, 'good.pem'), brought)
  await writeFile(
    join(folder, 'weak.pem'),
    pem(generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey),
  )
  t.match(await keys('import', join(folder, 'weak.pem')), {
    code: 1,
    stdout: '',
    stderr: /2048 to 4096 bits/,
  })
  const imported = await keys('import', join(folder, 'good.pem'), '--json')
  t.match(imported.told(), [{ kid: readKeyPair(brought).kid, alg: 'EdDSA', state: 'next' }])
  t.match(await keys('import', join(folder, 'good.pem')), { code: 1, stderr: /is here, or was removed/ })

  t.equal((await getProtected(server.url, user.token)).status, 200)
  t.match(await keys('remove', '--', kid), { code: 0, stdout: 'removed\n' })
  t.equal((await getProtected(server.url, user.token)).status, 401, 'an exit code of 0 is as good as a 204')
  await eventually(t, async () => kidOf((await logIn(server.url, user)).token) === readKeyPair(brought).kid)
  t.match(await keys('remove', '--', kid), { code: 1, stderr: /latchkey keys remove: / })
  for (const args of [[], ['list', 'x'], ['import'], ['remove'], ['frobnicate'], ['list', '--yaml']])
    t.match(await keys(...args), { code: 2, stdout: '', stderr: /^usage: / })
})
