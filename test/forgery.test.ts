/**
 * Every way we know to forge or misspell an access token, each tried on GET /protected and on POST /logout of one running
 * instance, cold and warm: it gets the row of the Bearer table that it deserves, whichever trick was played, and ends
 * nobody's session. Tokens whose header or claims decide are signed with the service's own key, so that nothing but the
 * one thing that is wrong with them can be the reason.
 */
import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
  constants as rsa,
  sign as signBytes,
} from 'node:crypto'
import { once } from 'node:events'
import { Agent, createServer, type IncomingMessage, request, STATUS_CODES } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { CompactEncrypt, UnsecuredJWT } from 'jose'
import t, { type Test } from 'tap'
import { presentedToken } from '../src/bearer/authorization-header.ts'
import { misshapenClaim } from '../src/bearer/claims.ts'
import { createSealer } from '../src/db/sealing.ts'
import {
  createManualClock,
  postgresAndRedis,
  type Stores,
  startInstance,
  withClient,
} from './fixtures/app.ts'
import { registerAndLogIn } from './fixtures/client.ts'

// --- What is attacked

type Row = 'missing_token' | 'malformed_authorization' | 'token_invalid' | 'token_expired' | 'token_revoked'

const bearerTable: Record<Row, { status: number; error?: string }> = {
  missing_token: { status: 401 },
  malformed_authorization: { status: 400, error: 'invalid_request' },
  token_invalid: { status: 401, error: 'invalid_token' },
  token_expired: { status: 401, error: 'invalid_token' },
  token_revoked: { status: 401, error: 'invalid_token' },
}

const toleranceSeconds = 5
const env = { CLOCK_TOLERANCE_SECONDS: `${toleranceSeconds}` }

// Time stands still, so that a second more or less is no matter of luck.
const clock = createManualClock()
const now = Math.floor(clock.now() / 1000)
const stores = await postgresAndRedis(t)
const service = await startInstance(t, { stores, clock, env })
const victim = await registerAndLogIn(service.url)
const own = await openSigningKey(stores)

/** Somebody else's service of the same name: same issuer, same audience, another key. */
const otherStores = await postgresAndRedis(t)
const other = await startInstance(t, { stores: otherStores, clock, env })
const stranger = await registerAndLogIn(other.url)
const otherKid = (await openSigningKey(otherStores)).kid

/** What the URLs in forged headers lead to. Nobody may ever ask. */
let fetched = 0
const bait = createServer((_request, response) => {
  fetched++
  response.end(JSON.stringify({ keys: [{ ...foreignJwk, kid: own.kid, alg: 'ES256', use: 'sig' }] }))
}).listen(0, '127.0.0.1')
await once(bait, 'listening')
t.teardown(() => bait.close())
const baitUrl = `http://127.0.0.1:${(bait.address() as AddressInfo).port}/jwks.json`

async function openSigningKey({ env }: Stores): Promise<{ kid: string; privateKey: KeyObject }> {
  const { rows } = await withClient(env.DATABASE_URL as string, (client) =>
    client.query<{ kid: string; sealed: Buffer }>(
      `select kid, sealed_private_key as sealed from signing_keys where state = 'active'`,
    ),
  )
  const { kid, sealed } = rows[0] as { kid: string; sealed: Buffer }
  const key = createSealer(env.KEY_ENCRYPTION_SECRET as string).open(`signing key ${kid}`, sealed)
  return { kid, privateKey: createPrivateKey(key) }
}

// --- How tokens are made: from JSON texts, for much of what is forged has no value in JavaScript

/** Member names and the JSON text of each; undefined leaves the member out. */
type Members = Record<string, string | undefined>
type Sign = (input: string) => string

const encode = (text: string | Buffer): string => Buffer.from(text).toString('base64url')
const decode = (segment: string): string => Buffer.from(segment, 'base64url').toString()
const segmentsOf = (token: string) => token.split('.') as [string, string, string]

const write = (members: Members): string =>
  `{${Object.entries(members)
    .filter(([, text]) => text !== undefined)
    .map(([name, text]) => `${JSON.stringify(name)}:${text}`)
    .join(',')}}`

const membersOf = (segment: string | undefined): Record<string, string> =>
  Object.fromEntries(
    Object.entries(JSON.parse(decode(segment ?? '')) as object).map(([name, value]) => [
      name,
      JSON.stringify(value),
    ]),
  )

const ecdsa =
  (key: KeyObject, hash = 'sha256'): Sign =>
  (input) =>
    signBytes(hash, Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')
const hmac =
  (secret: string | Buffer, hash = 'sha256'): Sign =>
  (input) =>
    createHmac(hash, secret).update(input).digest('base64url')

const ours = ecdsa(own.privateKey)
const header = membersOf(segmentsOf(victim.token)[0])
const claims = membersOf(segmentsOf(victim.token)[1])

const compose = (headerText: string | Buffer, payloadText: string | Buffer, sign: Sign = ours): string => {
  const input = `${encode(headerText)}.${encode(payloadText)}`
  return `${input}.${sign(input)}`
}

/** The victim's claims, of a token and a session of its own: whatever ends it is seen, and disturbs no other test. */
const fresh = (change: Members = {}): Members => ({
  ...claims,
  jti: JSON.stringify(randomUUID()),
  sid: JSON.stringify(randomUUID()),
  ...change,
})

/** Signed with the service's own key unless another is given. With nothing changed, a good token. */
const token = (change: { header?: Members; claims?: Members; sign?: Sign } = {}): string =>
  compose(write({ ...header, ...change.header }), write(fresh(change.claims)), change.sign)

// --- How they are tried

const form = 'application/x-www-form-urlencoded'

interface Attempt {
  name: string
  row: Row
  /** As they go over the wire: names and values in turn. */
  headers: string[]
  query?: string
  body?: string
}

const bearing = (name: string, token: string, row: Row = 'token_invalid'): Attempt => ({
  name,
  row,
  headers: ['Authorization', `Bearer ${token}`],
})
const sending = (name: string, row: Row, ...values: string[]): Attempt => ({
  name,
  row,
  headers: values.flatMap((value) => ['Authorization', value]),
})

interface Seen {
  status: number
  challenges: string[]
  type: string | undefined
  // biome-ignore lint/suspicious/noExplicitAny: whatever came
  body: any
}

const agent = new Agent({ keepAlive: true, maxSockets: 8 })
t.teardown(() => agent.destroy())

/** Node's own client: fetch would tidy up the headers. */
async function ask(
  url: string,
  method: string,
  path: string,
  { headers, body }: Pick<Attempt, 'headers' | 'body'>,
): Promise<Seen> {
  const { host } = new URL(url)
  const framing = method === 'POST' ? ['Content-Length', `${Buffer.byteLength(body ?? '')}`] : []
  // UTF-8 on the wire; Node writes header values as Latin-1.
  const wire = headers.map((text) => Buffer.from(text).toString('latin1'))
  const asked = request(url + path, { agent, method, headers: ['Host', host, ...framing, ...wire] })
  asked.end(method === 'POST' ? body : undefined)
  const [response] = (await once(asked, 'response')) as [IncomingMessage]
  const text = await response.toArray().then((chunks) => Buffer.concat(chunks as Buffer[]).toString())
  const type = response.headers['content-type']?.replace(/;.*/, '')
  return {
    status: response.statusCode ?? 0,
    challenges: response.headersDistinct['www-authenticate'] ?? [],
    type,
    body: /json/.test(type ?? '') ? JSON.parse(text) : text,
  }
}

const getProtected = (token: string, url = service.url) =>
  ask(url, 'GET', '/protected', { headers: ['Authorization', `Bearer ${token}`] })
const postLogout = (token: string, url = service.url) =>
  ask(url, 'POST', '/logout', { headers: ['Authorization', `Bearer ${token}`] })

/** What each code was explained with: a reply must not tell which trick was seen through. */
const details = new Map<string, Set<string>>()

/** Holds every reply against its row of the Bearer table. */
function assertRefused(t: Test, row: Row, name: string, ...replies: Seen[]): void {
  const { status, error } = bearerTable[row]
  const title = STATUS_CODES[status]
  const expected = {
    status,
    challenges: [`Bearer realm="latchkey"${error ? `, error="${error}"` : ''}`],
    type: 'application/problem+json',
    body: { type: 'about:blank', title, status, detail: 'string', code: row, request_id: 'string' },
  }
  t.strictSame(
    replies.map(({ body, ...reply }) => ({
      ...reply,
      body: { ...body, detail: typeof body.detail, request_id: typeof body.request_id },
    })),
    replies.map(() => expected),
    name,
  )
  for (const { code, detail } of replies.map(({ body }) => body)) {
    details.set(code, (details.get(code) ?? new Set()).add(detail))
  }
}

// --- Keys that are not the service's

const ourPublicKey = createPublicKey(own.privateKey)
const ourJwk = ourPublicKey.export({ format: 'jwk' }) as { kty: string; crv: string; x: string; y: string }
const foreign = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const foreignJwk = foreign.publicKey.export({ format: 'jwk' })
const foreignSpki = foreign.publicKey.export({ type: 'spki', format: 'der' })
const theirs = ecdsa(foreign.privateKey)
const rsaKey = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
const rsaSign =
  (hash: string, padding: number): Sign =>
  (input) =>
    signBytes(hash, Buffer.from(input), {
      key: rsaKey,
      padding,
      ...(padding === rsa.RSA_PKCS1_PSS_PADDING && { saltLength: rsa.RSA_PSS_SALTLEN_DIGEST }),
    }).toString('base64url')
const edwards =
  (key: KeyObject): Sign =>
  (input) =>
    signBytes(null, Buffer.from(input), key).toString('base64url')
const curve = (namedCurve: string) => generateKeyPairSync('ec', { namedCurve }).privateKey

/** Algorithm, and a key for it that anybody can make. */
const foreignSigners: Record<string, Sign> = {
  ES256: theirs,
  ES256K: ecdsa(curve('secp256k1')),
  ES384: ecdsa(curve('P-384'), 'sha384'),
  ES512: ecdsa(curve('P-521'), 'sha512'),
  RS256: rsaSign('sha256', rsa.RSA_PKCS1_PADDING),
  RS384: rsaSign('sha384', rsa.RSA_PKCS1_PADDING),
  RS512: rsaSign('sha512', rsa.RSA_PKCS1_PADDING),
  PS256: rsaSign('sha256', rsa.RSA_PKCS1_PSS_PADDING),
  PS384: rsaSign('sha384', rsa.RSA_PKCS1_PSS_PADDING),
  PS512: rsaSign('sha512', rsa.RSA_PKCS1_PSS_PADDING),
  EdDSA: edwards(generateKeyPairSync('ed25519').privateKey),
  Ed25519: edwards(generateKeyPairSync('ed25519').privateKey),
  HS256: hmac('secret'),
}

/** What a verifier that mixes its algorithms up would take for the secret of an HMAC. All of it is public. */
const publicSecrets: Record<string, string | Buffer> = {
  'the public key as PEM': ourPublicKey.export({ type: 'spki', format: 'pem' }),
  'the public key as PEM without its last line break':
    `${ourPublicKey.export({ type: 'spki', format: 'pem' })}`.trim(),
  'the public key as DER': ourPublicKey.export({ type: 'spki', format: 'der' }),
  'the public key as JWK': JSON.stringify(ourJwk),
  'the public key as published': JSON.stringify({ ...ourJwk, kid: own.kid, alg: 'ES256', use: 'sig' }),
  'the point of the public key': Buffer.concat(
    [ourJwk.x, ourJwk.y].map((part) => Buffer.from(part, 'base64url')),
  ),
  'the x of the public key': ourJwk.x,
  'the kid': own.kid,
  nothing: '',
}

// --- Encodings

const base64url = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** How many bits of a segment's last character carry nothing. */
const unusedBits = (segment: string): number => (segment.length * 6) % 8

/** All other ways to write the last character of a segment that decode to the same bytes in a lenient decoder. */
function otherSpellings(segment: string): string[] {
  const last = base64url.indexOf(segment.at(-1) as string)
  const count = 1 << unusedBits(segment)
  const first = last - (last % count)
  return Array.from({ length: count }, (_, i) => first + i)
    .filter((value) => value !== last)
    .map((value) => segment.slice(0, -1) + base64url[value])
}

const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
const toBytes = (number: bigint): Buffer => Buffer.from(number.toString(16).padStart(64, '0'), 'hex')
const signatureOf = (r: bigint, s: bigint): string => encode(Buffer.concat([toBytes(r), toBytes(s)]))
const numbersOf = (signature: string): [bigint, bigint] => {
  const hex = Buffer.from(signature, 'base64url').toString('hex')
  return [BigInt(`0x${hex.slice(0, 64)}`), BigInt(`0x${hex.slice(64)}`)]
}

/** A signature (r, s) also verifies as (r, -s mod n): ECDSA is malleable. */
function negated(signature: string): string {
  const [r, s] = numbersOf(signature)
  return signatureOf(r, order - s)
}

const toStandard = (segment: string): string => segment.replaceAll('-', '+').replaceAll('_', '/')

const flip = (segment: string, bit: number): string => {
  const bytes = Buffer.from(segment, 'base64url')
  bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7))
  return encode(bytes)
}

const spread = (count: number, length: number): number[] =>
  Array.from({ length: count }, (_, i) => Math.floor((i * length) / count))

// --- The claims, and what each of them is not

/** JSON texts without spaces, each of which also names its case. */
const texts = (list: string): string[] => list.split(' ')
const nameOf = (text: string | undefined): string =>
  text === undefined ? 'missing' : text.length > 60 ? `${text.slice(0, 60)}...` : text

const uuidText = '7f0b6d3e-5a0c-4b61-9a77-0d1f1c2b3a4d'
const wrongForAll = [undefined, ...texts('null true false {} {"toString":"x","length":1} [] [[]] ""')]
const wrongText = [...wrongForAll, ...texts('0 1 1e999 ["latchkey"] [""] {"$ne":null}')]
const wrongTexts = texts(
  '0 1 "admin" [1] [null] ["user",null] [""] [["admin"]] [{}] {"0":"admin","length":1}',
)
/** What would split a list of them, or a header with one. */
const wrongRoles = [
  ...texts(
    '["user,admin"] ["Admin"] ["1a"] ["-a"] ["user;admin"] ["admin\\n"] ["a\\r\\nx:y"] ["\\u0430dmin"]',
  ),
  '["user admin"]',
  '["user"," admin"]',
  `["${'a'.repeat(65)}"]`,
]
const wrongId = [
  ...wrongForAll,
  ...texts(
    `0 1 1e999 "*" "0" "../.." {"$ne":null} ["${uuidText}"] "${uuidText.toUpperCase()}" "{${uuidText}}"`,
  ),
  ...texts(`"urn:uuid:${uuidText}" "${uuidText.slice(1)}" "${uuidText}0" "${uuidText.replaceAll('-', '')}"`),
  ...texts(`"${uuidText}\\n" "\\n${uuidText}" "${uuidText}\\u0000" "${uuidText}:${uuidText}" "\\ud800"`),
  ` "${uuidText} "`,
  `"' or 1=1 --"`,
  `"${'0'.repeat(8000)}"`,
]
const wrongCount = [
  ...wrongForAll,
  ...texts(`"${now}" "0x7fffffff" [${now}] {"valueOf":${now}} 0 -0 -1 -${now} 1.5 ${now}.5 1e-300`),
  ...texts('1e300 1e999 -1e999 9007199254740992 18446744073709551616'),
]
/** A revocation is kept for longer than `exp`, so `exp` has to be a moment that can be written down. */
const wrongMoment = [...wrongCount, ...texts(`253402300800 8640000000000 ${Number.MAX_SAFE_INTEGER}`)]

const wrongClaims: Record<string, (string | undefined)[]> = {
  iss: wrongText,
  aud: wrongText,
  client_id: wrongText,
  acr: wrongText,
  sub: wrongId,
  jti: wrongId,
  sid: wrongId,
  iat: wrongCount,
  exp: wrongMoment,
  ver: wrongCount,
  auth_time: wrongCount,
  roles: [...wrongForAll.filter((text) => text !== '[]'), ...wrongTexts, ...wrongRoles],
  amr: [...wrongForAll.filter((text) => text !== '[]'), ...wrongTexts],
}

/** Another issuer or audience that a careless comparison takes for ours. */
function nearly(text: string | undefined): string[] {
  const url = JSON.parse(text as string) as string
  return [
    ...texts(`"https://evil.test" "${url}/" "${url}.evil.test" "${url}:443" "${url}@evil.test" "${url}#"`),
    ...texts(`"https://evil.test/${url}" "${url.slice(0, -1)}" "${url.slice(1)}" "${url.toUpperCase()}"`),
    ...texts(`"${url.replace('https', 'http')}" "${url.replace('//', '//x@')}" "${url.replace('//', '')}"`),
    ...texts(`"${url}\\u0000" "${url}\\n" "\\ufeff${url}" ".*" "*" {"${url}":true} ["${url}"] [["${url}"]]`),
    ...texts(`["https://evil.test","${url}"] ["${url}","https://evil.test"]`),
    `"${url} "`,
    `" ${url}"`,
  ]
}

// --- The attacks

const headerText = write(header)
const payloadText = write(fresh())
const [theHeader, thePayload, theSignature] = segmentsOf(victim.token)
const inFront = (text: string, member: string) => text.replace('{', `{${member},`)
const behind = (text: string, member: string) => text.replace(/}$/, `,${member}}`)

/** A case for each token of a table. */
const bearingEach = (tokens: Record<string, string>): Attempt[] =>
  Object.entries(tokens).map(([name, token]) => bearing(name, token))
/** A case for each Authorization header of a table, or for each of several together. */
const sendingEach = (row: Row, table: Record<string, string | string[]>): Attempt[] =>
  Object.entries(table).map(([name, values]) => sending(name, row, ...[values].flat()))

/** Encoded, this has both `-` and `_` in it, wherever it stands. */
const dashes = { x: '"???>>>???>>>"' }
const withDashes = ((): string => {
  for (;;) {
    const made = token({ claims: dashes })
    if (
      segmentsOf(made)
        .slice(1)
        .every((segment) => /-/.test(segment) && /_/.test(segment))
    )
      return made
  }
})()

/** A text of these members whose last character, encoded, has unused bits. */
const padded = (members: Members): string => {
  for (let text = write(members); ; text += ' ') if (unusedBits(encode(text)) > 0) return text
}

const inside = (what: string) => (text: string) => `${text.slice(0, 20)}${what}${text.slice(20)}`
const spoilt: Record<string, (segment: string) => string> = {
  '= behind': (text) => `${text}=`,
  '== behind': (text) => `${text}==`,
  '= before': (text) => `=${text}`,
  '= inside': inside('='),
  '%3D behind': (text) => `${text}%3D`,
  '! inside': inside('!'),
  '% inside': inside('%'),
  '~ inside': inside('~'),
  quotes: (text) => `"${text}"`,
  'a no-break space': inside('\u00a0'),
  'a zero-width space': inside('\u200b'),
  'a soft hyphen': inside('\u00ad'),
  'a byte order mark': (text) => `\ufeff${text}`,
  'a Cyrillic letter': (text) => `${text.slice(0, 10)}А${text.slice(11)}`,
}
const changeOne = (which: number, made: string, change: (segment: string) => string): string =>
  segmentsOf(made)
    .map((segment, i) => (i === which ? change(segment) : segment))
    .join('.')
const resign = (made: string): string => {
  const input = made.slice(0, made.lastIndexOf('.'))
  return `${input}.${ours(input)}`
}

const zeroKey = Buffer.alloc(32)
const encrypt = (text: string, alg: 'ECDH-ES' | 'dir', cty?: string) =>
  new CompactEncrypt(Buffer.from(text))
    .setProtectedHeader({ alg, enc: 'A256GCM', kid: own.kid, typ: 'at+jwt', ...(cty && { cty }) })
    .encrypt(alg === 'dir' ? zeroKey : ourPublicKey)

const attacks: Record<string, Attempt[]> = {
  'alg none, however it is spelt': [
    ...[...texts('"none" "None" "NONE" "nOnE" "none\\u0000" "n\\u006fne" ["none"] ""'), '"none "'].flatMap(
      (alg) => [
        bearing(`${alg}, no signature`, token({ header: { alg }, sign: () => '' })),
        bearing(`${alg}, nor a kid`, token({ header: { alg, kid: undefined }, sign: () => '' })),
        bearing(`${alg}, two segments`, token({ header: { alg }, sign: () => '' }).slice(0, -1)),
        bearing(`${alg}, a signature`, token({ header: { alg }, sign: () => theSignature })),
        bearing(`${alg}, one byte`, token({ header: { alg }, sign: () => 'AA' })),
      ],
    ),
    bearing('as jose writes it', new UnsecuredJWT(JSON.parse(payloadText)).encode()),
  ],

  'an alg that is not ours, under our own signature': [
    undefined,
    ...texts('null true 256 {} {"alg":"ES256"} ["ES256"] "" "es256" "Es256" "ES25" "ES2560" "ЕS256"'),
    ...texts('"ES256\\u0000" "ES256\\n" "__proto__" "constructor" "toString" "dir" "ECDH-ES" "A256KW"'),
    ...Object.keys(foreignSigners).flatMap((alg) => (alg === 'ES256' ? [] : `"${alg}"`)),
    '"ES256 "',
    `"${'E'.repeat(8000)}"`,
  ].map((alg) => bearing(nameOf(alg), token({ header: { alg } }))),

  'an HMAC whose secret everybody knows': Object.entries(publicSecrets).flatMap(([name, secret]) => [
    ...[256, 384, 512].map((bits) =>
      bearing(
        `HS${bits}: ${name}`,
        token({ header: { alg: `"HS${bits}"` }, sign: hmac(secret, `sha${bits}`) }),
      ),
    ),
    bearing(`called ES256: ${name}`, token({ sign: hmac(secret) })),
  ]),

  'a signature by a key that anybody can make': Object.entries(foreignSigners).flatMap(([alg, sign]) => [
    bearing(`${alg} under our kid`, token({ header: { alg: `"${alg}"` }, sign })),
    bearing(`${alg} under another kid`, token({ header: { alg: `"${alg}"`, kid: '"mine"' }, sign })),
    bearing(`${alg} without a kid`, token({ header: { alg: `"${alg}"`, kid: undefined }, sign })),
    bearing(
      `${alg} for the victim's own claims`,
      compose(headerText.replace('ES256', alg), write(claims), sign),
    ),
    ...(alg === 'ES256' ? [] : [bearing(`${alg}, called ES256`, token({ sign }))]),
  ]),

  'a kid that leads elsewhere': [
    undefined,
    ...texts(`null true 0 -1 1e999 "" [] {} ["${own.kid}"] {"toString":"${own.kid}"} "${otherKid}" "*" "."`),
    ...texts('"../../../../dev/null" "file:///dev/null" "/dev/null" "__proto__" "constructor" "toString"'),
    ...texts(`"./${own.kid}" "${own.kid.slice(1)}" "${own.kid}\\u0000" "${own.kid}\\n" "${own.kid}="`),
    ...texts(`"${own.kid.toUpperCase()}" "\\ud800" "|id" "$(id)" ${JSON.stringify(baitUrl)}`),
    `"' union select '${own.kid}' --"`,
    `"${own.kid}' or '1'='1"`,
    `"${own.kid} "`,
    `"${'k'.repeat(9000)}"`,
  ].flatMap((kid) => [
    bearing(`${nameOf(kid)}, our signature`, token({ header: { kid } })),
    bearing(`${nameOf(kid)}, a foreign one`, token({ header: { kid }, sign: theirs })),
    bearing(`${nameOf(kid)}, an HMAC`, token({ header: { kid, alg: '"HS256"' }, sign: hmac('') })),
  ]),

  'a key that the token brings along': Object.entries({
    jwk: { jwk: JSON.stringify(foreignJwk) },
    'jwk with our kid': { jwk: JSON.stringify({ ...foreignJwk, kid: own.kid }) },
    jku: { jku: JSON.stringify(baitUrl) },
    x5u: { x5u: JSON.stringify(baitUrl) },
    x5c: { x5c: JSON.stringify([foreignSpki.toString('base64')]) },
    x5t: { x5t: `"${encode('x'.repeat(20))}"`, 'x5t#S256': `"${encode('x'.repeat(32))}"` },
    'jwk and jku': { jwk: JSON.stringify(foreignJwk), jku: JSON.stringify(baitUrl) },
  }).flatMap(([name, brought]) => [
    bearing(`${name}, our kid`, token({ header: { ...brought }, sign: theirs })),
    bearing(`${name}, its own kid`, token({ header: { ...brought, kid: '"mine"' }, sign: theirs })),
    bearing(`${name}, no kid`, token({ header: { ...brought, kid: undefined }, sign: theirs })),
  ]),

  'a header with more in it than latchkey writes, under our own signature': bearingEach({
    'a member that nobody knows': token({ header: { x: '1' } }),
    'a key beside a signature by ours': token({
      header: { jwk: JSON.stringify(foreignJwk), jku: JSON.stringify(baitUrl) },
    }),
    'b64 without crit': token({ header: { b64: 'false' } }),
  }),

  'crit, under our own signature': [
    ...texts(
      '["x"] ["y"] ["x","x"] ["b64"] ["alg"] ["exp"] ["constructor"] ["__proto__"] [""] [1] [null] [[]]',
    ),
    ...texts('[] {} {"x":true} "x" "" 1 0 true false null'),
  ]
    .map((crit) => bearing(crit, token({ header: { crit, x: '1', b64: 'true' } })))
    .concat(
      bearingEach({
        'b64: false, not encoded, signed so': ((): string => {
          const input = `${encode(behind(headerText, '"b64":false,"crit":["b64"]'))}.${payloadText}`
          return `${input}.${ours(input)}`
        })(),
        'b64: false, encoded, signed as if it were not': ((): string => {
          const first = encode(behind(headerText, '"b64":false,"crit":["b64"]'))
          return `${first}.${encode(payloadText)}.${ours(`${first}.${payloadText}`)}`
        })(),
      }),
    ),

  'a typ of something else, under our own signature': [
    undefined,
    ...texts('null true 1 {} [] ["at+jwt"] "" "JWT" "jwt" "at" "at-jwt" "id_token" "rt+jwt" "logout+jwt"'),
    ...texts('"dpop+jwt" "secevent+jwt" "application/jwt" "text/at+jwt" "application/application/at+jwt"'),
    ...texts('"at+jwt;x=y" "at+jwt\\u0000" "at+jwt\\n" "аt+jwt" "__proto__"'),
    '"at+jwt "',
    '"at jwt"',
  ].map((typ) => bearing(nameOf(typ), token({ header: { typ } }))),

  'claims of the wrong shape, under our own signature': [
    ...Object.entries(wrongClaims).flatMap(([claim, wrong]) =>
      wrong.map((text) => bearing(`${claim}: ${nameOf(text)}`, token({ claims: { [claim]: text } }))),
    ),
    ...bearingEach({
      'no claim at all': compose(headerText, '{}'),
      'all of them inherited': compose(headerText, `{"__proto__":${payloadText}}`),
      'all of them one level down': compose(headerText, `{"claims":${payloadText}}`),
      'all of them in the header': compose(write({ ...fresh(), ...header }), '{}'),
      'all names in capitals': compose(
        headerText,
        payloadText.replaceAll(/"\w+":/g, (name) => name.toUpperCase()),
      ),
    }),
  ],

  'an issuer or an audience that is nearly right, under our own signature': [
    ...nearly(claims.iss).map((iss) => bearing(`iss ${iss}`, token({ claims: { iss } }))),
    ...nearly(claims.aud).map((aud) => bearing(`aud ${aud}`, token({ claims: { aud } }))),
    bearing('both of another', token({ claims: { iss: '"https://a.test"', aud: '"https://a.test"' } })),
  ],

  'a time that has not come, under our own signature': [
    ...[now + toleranceSeconds + 1, now + 60, now + 86_400, 253402300800, Number.MAX_SAFE_INTEGER].map(
      (iat) => bearing(`iat ${iat}`, token({ claims: { iat: `${iat}` } })),
    ),
    ...texts(`${now + 3600} 8640000000001 1e300 1e999 "${now}" "" null true [${now}] {}`).map((nbf) =>
      bearing(`nbf ${nbf}`, token({ claims: { nbf } })),
    ),
  ],

  'expired, but that is not all': Object.entries<Parameters<typeof token>[0] & object>({
    'the signature': { sign: theirs },
    'the kid': { header: { kid: '"mine"' } },
    'the alg': { header: { alg: '"none"' }, sign: () => '' },
    'the typ': { header: { typ: '"JWT"' } },
    iss: { claims: { iss: '"https://evil.test"' } },
    aud: { claims: { aud: '"https://evil.test"' } },
    jti: { claims: { jti: undefined } },
    ver: { claims: { ver: '0' } },
    iat: { claims: { iat: `${now + 60}` } },
    nbf: { claims: { nbf: `${now + 60}` } },
  }).map(([name, change]) =>
    bearing(name, token({ ...change, claims: { exp: `${now - 60}`, ...change.claims } })),
  ),

  'a member that stands there twice, of which the last is wrong': [
    ...texts('"alg":"none" "alg":"HS256" "alg":null "kid":"mine" "kid":null "typ":"JWT" "typ":null').map(
      (member) => bearing(`header: ${member}`, compose(behind(headerText, member), payloadText)),
    ),
    ...texts('"iss":"https://evil.test" "aud":[] "sub":null "sid":"" "jti":[] "exp":1e999 "ver":0').map(
      (member) => bearing(`payload: ${member}`, compose(headerText, behind(payloadText, member))),
    ),
    bearing('in escapes', compose(headerText, behind(payloadText, '"\\u0065xp":null'))),
    ...bearingEach({
      'alg none first, foreign signature': compose(inFront(headerText, '"alg":"none"'), payloadText, theirs),
      'alg none first, no signature': compose(inFront(headerText, '"alg":"none"'), payloadText, () => ''),
      'another kid first, foreign signature': compose(
        inFront(headerText, '"kid":"mine"'),
        payloadText,
        theirs,
      ),
    }),
  ],

  'a header or a payload that is no JSON object, under our own signature': Object.entries<string | Buffer>({
    ...Object.fromEntries(
      texts(`[] "x" 1 0 true false null NaN undefined { } {}{} {}, {"a":1,} {'a':1} {a:1} {/**/}`).map(
        (text) => [text, text],
      ),
    ),
    nothing: '',
    'a byte order mark first': '\ufeff{}',
    'a NUL behind': '{}\0',
    'brackets without an end': '['.repeat(8000),
    'brackets in brackets': `${'['.repeat(4000)}${']'.repeat(4000)}`,
    'not UTF-8': Buffer.from([0xff, 0xfe, 0x7b, 0x7d]),
    'UTF-16': Buffer.from('{}', 'utf16le'),
  })
    .flatMap(([name, text]) => [
      bearing(`header: ${name}`, compose(text, payloadText)),
      bearing(`payload: ${name}`, compose(headerText, text)),
    ])
    .concat(
      bearingEach({
        'header: ours in a list': compose(`[${headerText}]`, payloadText),
        'header: ours in a text': compose(JSON.stringify(headerText), payloadText),
        'header: ours, a byte order mark first': compose(`\ufeff${headerText}`, payloadText),
        'header: ours, a NUL behind': compose(`${headerText}\0`, payloadText),
        'payload: ours in a list': compose(headerText, `[${payloadText}]`),
        'payload: ours in a text': compose(headerText, JSON.stringify(payloadText)),
        'payload: ours, a byte order mark first': compose(headerText, `\ufeff${payloadText}`),
        'payload: ours, a NUL behind': compose(headerText, `${payloadText}\0`),
        'payload: ours in UTF-16': compose(headerText, Buffer.from(payloadText, 'utf16le')),
        'payload: a good token': compose(behind(headerText, '"cty":"JWT"'), token()),
      }),
    ),

  'characters that base64url does not have': ['header', 'payload', 'signature'].flatMap((place, which) => [
    ...Object.entries(spoilt).map(([name, spoil]) =>
      bearing(`${name}, ${place}`, changeOne(which, victim.token, spoil)),
    ),
    // Nothing that may stand in the header is encoded with these.
    ...(which === 0 ? [] : [bearing(`+ and /, ${place}`, changeOne(which, withDashes, toStandard))]),
    ...(which === 2
      ? []
      : [
          ...Object.entries(spoilt).map(([name, spoil]) =>
            bearing(`${name}, ${place}, and signed so by us`, resign(changeOne(which, token(), spoil))),
          ),
          ...(which === 0
            ? []
            : [
                bearing(
                  `+ and /, ${place}, and signed so by us`,
                  resign(changeOne(which, withDashes, toStandard)),
                ),
              ]),
        ]),
    ...sendingEach('malformed_authorization', {
      [`a space, ${place}`]: `Bearer ${changeOne(which, victim.token, inside(' '))}`,
      [`a tab, ${place}`]: `Bearer ${changeOne(which, victim.token, inside('\t'))}`,
    }),
  ]),

  'unused bits of what was signed': [1, 2, 3].flatMap((i) => {
    const made = compose(padded(header), padded(fresh({ i: `${i}` })))
    const [first, second, signature] = segmentsOf(made)
    return [
      ...otherSpellings(first).map((text) => bearing(`header ${i}`, `${text}.${second}.${signature}`)),
      ...otherSpellings(second).map((text) => bearing(`payload ${i}`, `${first}.${text}.${signature}`)),
    ]
  }),

  'more segments, fewer segments, empty segments': bearingEach({
    'a header': theHeader,
    'a payload': thePayload,
    'header and payload': `${theHeader}.${thePayload}`,
    'payload and signature': `${thePayload}.${theSignature}`,
    'header, payload and nothing': `${theHeader}.${thePayload}.`,
    'header, nothing and signature': `${theHeader}..${theSignature}`,
    'nothing, payload and signature': `.${thePayload}.${theSignature}`,
    'a dot before': `.${victim.token}`,
    'a dot behind': `${victim.token}.`,
    'a double dot': victim.token.replace('.', '..'),
    'four segments': `${victim.token}.${theSignature}`,
    'five segments': `${victim.token}.${thePayload}.${theSignature}`,
    'two tokens': `${victim.token}${victim.token}`,
    'two tokens and a dot': `${victim.token}.${victim.token}`,
    'two tokens and a comma': `${victim.token},${victim.token}`,
    'another order': `${thePayload}.${theHeader}.${theSignature}`,
    'one dot': '.',
    'two dots': '..',
    'three dots': '...',
    'a thousand dots': '.'.repeat(1000),
    letters: 'a.b.c',
    'empty objects': Array(3).fill(encode('{}')).join('.'),
    'four empty objects': Array(4).fill(encode('{}')).join('.'),
    'ideographic full stops': victim.token.replaceAll('.', '\u3002'),
    'full-width dots': victim.token.replaceAll('.', '\uff0e'),
    'percent-encoded dots': victim.token.replaceAll('.', '%2E'),
    'flattened JSON': JSON.stringify({ protected: theHeader, payload: thePayload, signature: theSignature }),
    'general JSON': JSON.stringify({
      payload: thePayload,
      signatures: [{ protected: theHeader, signature: theSignature }],
    }),
    'JWE to our public key': await encrypt(payloadText, 'ECDH-ES'),
    'JWE to our public key around a good token': await encrypt(token(), 'ECDH-ES', 'JWT'),
    'JWE with a key of zeros': await encrypt(payloadText, 'dir'),
  }),

  'a token that was cut off': [
    ...spread(40, victim.token.length).slice(1),
    theHeader.length + 1,
    victim.token.length - 3,
    victim.token.length - 1,
  ].map((end) => bearing(`after ${end} characters`, victim.token.slice(0, end))),

  'a token with one bit flipped': [theHeader, thePayload, theSignature].flatMap((segment, which) =>
    spread(24, Buffer.from(segment, 'base64url').length * 8).map((bit) =>
      bearing(
        `bit ${bit} of segment ${which}`,
        changeOne(which, victim.token, (text) => flip(text, bit)),
      ),
    ),
  ),

  'a signature that is none': Object.entries(
    ((): Record<string, string> => {
      const [r, s] = numbersOf(theSignature)
      const bytes = Buffer.from(theSignature, 'base64url')
      const input = Buffer.from(`${theHeader}.${thePayload}`)
      return {
        'all zero': signatureOf(0n, 0n),
        'r zero': signatureOf(0n, s),
        's zero': signatureOf(r, 0n),
        'r and s one': signatureOf(1n, 1n),
        's one': signatureOf(r, 1n),
        'r and s the order': signatureOf(order, order),
        'r the order': signatureOf(order, s),
        's the order': signatureOf(r, order),
        'all ones': encode(Buffer.alloc(64, 0xff)),
        'r negated': signatureOf(order - r, s),
        'r and s swapped': signatureOf(s, r),
        'in DER': encode(signBytes('sha256', input, { key: own.privateKey, dsaEncoding: 'der' })),
        'zero in DER': encode(Buffer.from('3006020100020100', 'hex')),
        'of another hash': ecdsa(own.privateKey, 'sha512')(input.toString()),
        'of the payload alone': ours(thePayload),
        'of the decoded texts': ours(`${decode(theHeader)}.${decode(thePayload)}`),
        'of another token': segmentsOf(token())[2],
        'a byte short': encode(bytes.subarray(0, 63)),
        'a byte long': encode(Buffer.concat([bytes, Buffer.alloc(1)])),
        'a byte before': encode(Buffer.concat([Buffer.alloc(1), bytes])),
        'twice as long': encode(Buffer.concat([bytes, bytes])),
        'half as long': encode(bytes.subarray(0, 32)),
        'of one byte': 'AA',
        'of one character': 'A',
        'in hexadecimal': bytes.toString('hex'),
        'encoded twice': encode(theSignature),
        'of 9 kB': 'A'.repeat(9000),
      }
    })(),
  ).map(([name, signature]) => bearing(name, `${theHeader}.${thePayload}.${signature}`)),

  'many kilobytes': bearingEach({
    'of header, unknown kid': token({ header: { kid: '"mine"', x: `"${'x'.repeat(10_000)}"` } }),
    'of header, foreign signature': token({ header: { x: `"${'x'.repeat(10_000)}"` }, sign: theirs }),
    'of header members': token({
      header: Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`m${i}`, '0'])),
      sign: theirs,
    }),
    'of claims, foreign signature': token({ claims: { x: `"${'x'.repeat(10_000)}"` }, sign: theirs }),
    'of one letter': 'a'.repeat(15_000),
    'of one letter and two dots': Array(3).fill('a'.repeat(5000)).join('.'),
  }),

  'something else in place of the token': bearingEach({
    'the refresh token': victim.refreshToken,
    'the refresh token in three parts': victim.refreshToken.replace(/^(.{14})(.{14})/, '$1.$2.'),
    'the session': victim.sid,
    'the jti': JSON.parse(claims.jti as string) as string,
    'the account': victim.id,
    'the kid': own.kid,
    'name and password': Buffer.from(`${victim.username}:${victim.password}`).toString('base64'),
    'a token of another latchkey': stranger.token,
    null: 'null',
    undefined: 'undefined',
    'a Postman variable': '{{access_token}}',
    'a shell variable': '$TOKEN',
    'a parameter': `token=${victim.token}`,
    'in angle brackets': `<${victim.token}>`,
    'in quotes': `"${victim.token}"`,
    'a semicolon behind': `${victim.token};`,
    'a comma behind': `${victim.token},`,
  }),

  'an Authorization header with no token, or with more than one': sendingEach('malformed_authorization', {
    ...Object.fromEntries(
      ['Bearer', 'bearer', 'BEARER', 'Bearer ', 'Bearer \t '].map((text) => [text, text]),
    ),
    'another word': `Bearer ${victim.token} x`,
    'the token twice': `Bearer ${victim.token} ${victim.token}`,
    'the token twice, a tab between': `Bearer ${victim.token}\t${victim.token}`,
    'the scheme twice': `Bearer Bearer ${victim.token}`,
    'two in a list': `Bearer ${victim.token}, Bearer ${victim.token}`,
    'Bearer and Basic in a list': `Bearer ${victim.token}, Basic eDp5`,
    'two tokens in a list': `Bearer ${victim.token}, ${victim.token}`,
    'a parameter': `Bearer ${victim.token} realm="latchkey"`,
    'a comment': `Bearer ${victim.token} (mine)`,
    'words in quotes': `Bearer "${theHeader} ${thePayload}"`,
  }),

  'an Authorization header of another scheme': sendingEach('missing_token', {
    nothing: '',
    'the token alone': victim.token,
    Basic: `Basic ${Buffer.from(`${victim.username}:${victim.password}`).toString('base64')}`,
    'Basic and Bearer in a list': `Basic eDp5, Bearer ${victim.token}`,
    Digest: 'Digest username="x", realm="latchkey", nonce="1", uri="/protected", response="2"',
    ...Object.fromEntries(
      texts(
        'Basic DPoP JWT Token MAC Negotiate Bear Bearers OAuth Bearer: Bearer= "Bearer" null Βearer Ｂearer',
      ).map((scheme) => [`${scheme} with the token`, `${scheme} ${victim.token}`]),
    ),
    ...Object.fromEntries(
      [':', '=', ',', '+', '%20', '\u00a0', '\u3000', '\u200b', '/', ''].map((space) => [
        `${JSON.stringify(space)} for a space`,
        `Bearer${space}${victim.token}`,
      ]),
    ),
    'a comma first': `, Bearer ${victim.token}`,
    'all in quotes': `"Bearer ${victim.token}"`,
  }),

  'two Authorization headers, of which every reader chooses another': [
    ...sendingEach('malformed_authorization', {
      'the same twice': [`Bearer ${victim.token}`, `Bearer ${victim.token}`],
      'good, then bad': [`Bearer ${victim.token}`, `Bearer ${stranger.token}`],
      'bad, then good': [`Bearer ${stranger.token}`, `Bearer ${victim.token}`],
      'Bearer, then Basic': [`Bearer ${victim.token}`, 'Basic eDp5'],
      'Basic, then Bearer': ['Basic eDp5', `Bearer ${victim.token}`],
      'Basic twice': ['Basic eDp5', 'Basic eDp5'],
      'good, then empty': [`Bearer ${victim.token}`, ''],
      'empty, then good': ['', `Bearer ${victim.token}`],
      'empty twice': ['', ''],
      'the scheme, then the token': ['Bearer', victim.token],
      three: Array<string>(3).fill(`Bearer ${victim.token}`),
      'half of it each': [`Bearer ${theHeader}.${thePayload}`, `.${theSignature}`],
    }),
    ...['authorization', 'AUTHORIZATION', 'aUTHORIZATION'].map((second) => ({
      name: `Authorization and ${second}`,
      row: 'malformed_authorization' as const,
      headers: [
        'Authorization',
        `Bearer ${victim.token}`,
        'X-Between',
        'x',
        second,
        `Bearer ${victim.token}`,
      ],
    })),
  ],

  'a good token where none is read': [
    ...texts('Proxy-Authorization X-Authorization X-Access-Token X-Auth-Token X-Forwarded-Authorization'),
    ...texts(
      'X-Original-Authorization Authentication Authorisation Authorization_ Token DPoP WWW-Authenticate',
    ),
  ]
    .map((name): Attempt => elsewhere(`header ${name}`, { headers: [name, `Bearer ${victim.token}`] }))
    .concat(
      texts('access_token token authorization bearer jwt').flatMap((name) => [
        elsewhere(`query ${name}`, { query: `?${name}=${victim.token}` }),
        elsewhere(`query ${name} and scheme`, { query: `?${name}=Bearer%20${victim.token}` }),
        elsewhere(`cookie ${name}`, { headers: ['Cookie', `${name}=${victim.token}`] }),
        elsewhere(`body ${name}`, {
          headers: ['Content-Type', 'application/json'],
          body: JSON.stringify({ [name]: victim.token }),
        }),
        elsewhere(`form ${name}`, {
          headers: ['Content-Type', form],
          body: `${name}=${victim.token}`,
        }),
      ]),
      elsewhere('nowhere', {}),
      {
        ...sending(
          'in the query, beside a bad one in the header',
          'token_invalid',
          `Bearer ${stranger.token}`,
        ),
        query: `?access_token=${victim.token}`,
      },
      {
        ...sending('in the body, beside an empty header', 'malformed_authorization', 'Bearer'),
        body: JSON.stringify({ access_token: victim.token }),
      },
    ),
}

function elsewhere(name: string, sent: Partial<Attempt>): Attempt {
  return { name, row: 'missing_token', headers: [], ...sent }
}

// --- What must not be mistaken for an attack

/** Other ways to write the very same token, signature by signature. */
const spellingsOf = (made: string): string[] => {
  const [first, second, signature] = segmentsOf(made)
  const opposite = negated(signature)
  return [...otherSpellings(signature), opposite, ...otherSpellings(opposite)].map(
    (spelling) => `${first}.${second}.${spelling}`,
  )
}

/** Changes that the standards tell a verifier to take no notice of. */
const unimportant: Record<string, () => string> = {
  nothing: () => token(),
  'typ with application (RFC 9068 §4)': () => token({ header: { typ: '"application/at+jwt"' } }),
  'typ in capitals (RFC 7515 §4.1.9)': () => token({ header: { typ: '"AT+JWT"' } }),
  'header members in another order': () =>
    compose(write(Object.fromEntries(Object.entries(header).reverse())), write(fresh())),
  'white space in the JSON texts': () =>
    compose(` ${write(header)}\r\n`, `\n\t${write(fresh()).replaceAll(',', ' ,\n')}`),
  'escapes in the JSON texts': () =>
    compose(write(header).replace('ES256', '\\u0045S256'), write(fresh()).replace('"sub"', '"\\u0073ub"')),
  'a claim that nobody knows': () => token({ claims: { x: '{"y":[null]}' } }),
  'a claim named __proto__': () => token({ claims: { ['__proto__']: '{"sub":"x"}' } }),
  'a claim named twice, of which the last counts (RFC 7519 §4)': () =>
    compose(write(header), write(fresh()).replace('{', '{"sub":"x","exp":1,')),
  'a number with an exponent': () => token({ claims: { auth_time: `${now}0e-1` } }),
  'nbf in the past': () => token({ claims: { nbf: `${now - 60}` } }),
  'roles without any': () => token({ claims: { roles: '[]' } }),
  'all its alphabet': () => token({ claims: dashes }),
  'unused bits to spare': () => compose(padded(header), padded(fresh())),
  'iat ahead by no more than clocks differ': () => token({ claims: { iat: `${now + toleranceSeconds}` } }),
  'exp behind by less than clocks differ': () => token({ claims: { exp: `${now - toleranceSeconds + 1}` } }),
}

const expiries = { 'this second': now - toleranceSeconds, 'a minute ago': now - 60, 'in 1970': 1 }

// --- The tests

const attempts = Object.values(attacks).flat()

async function assertVictimIsWell(t: Test): Promise<void> {
  const { status, body } = await getProtected(victim.token)
  t.equal(status, 200, 'the token that they were made from')
  t.strictSame([body.sub, body.sid], [victim.id, victim.sid])
}

t.test(
  'the token that all forgeries are made from is good, and so is one that our helper makes',
  async (t) => {
    await assertVictimIsWell(t)
    for (const made of [token(), withDashes]) t.equal((await getProtected(made)).status, 200)
    t.equal(own.kid, JSON.parse(header.kid as string))
    t.strictSame(Object.keys(header).sort(), ['alg', 'kid', 'typ'])
    t.strictSame(Object.keys(claims).sort(), Object.keys(wrongClaims).sort(), 'every claim is attacked')
  },
)

for (const round of ['cold', 'warm']) {
  t.test(`no forged or misspelt token opens anything or ends anything (${round})`, async (t) => {
    for (const [attack, variants] of Object.entries(attacks)) {
      t.test(attack, async (t) => {
        const seen = await Promise.all(
          variants.map((attempt) =>
            Promise.all([
              ask(service.url, 'GET', `/protected${attempt.query ?? ''}`, attempt),
              ask(service.url, 'POST', `/logout${attempt.query ?? ''}`, attempt),
            ]),
          ),
        )
        for (const [i, { name, row, headers }] of variants.entries()) {
          const [guarded, loggedOut] = seen[i] as [Seen, Seen]
          assertRefused(t, row, name, guarded)
          // Nobody looks for a token in a form; a logout looks for a refresh token in JSON, and says so.
          if (headers.includes(form))
            t.match(loggedOut, { status: 415, body: { code: 'unsupported_media_type' } }, name)
          else assertRefused(t, row, name, loggedOut)
        }
      })
    }
  })
}

t.test('what came over a raw socket, as no client would write it', async (t) => {
  const good = `Bearer ${victim.token}`
  const chunked = ['Content-Type: application/json', 'Transfer-Encoding: chunked', 'Trailer: Authorization']
  const trailer = `2\r\n{}\r\n0\r\nAuthorization: ${good}\r\n\r\n`
  const requests: Record<string, [lines: string[], status: number, code: string, body?: string]> = {
    'the token on a folded line': [['Authorization: Bearer', ` ${victim.token}`], 400, 'invalid_request'],
    'a space before the colon': [[`Authorization : ${good}`], 400, 'invalid_request'],
    'a NUL behind the token': [[`Authorization: ${good}\0`], 400, 'invalid_request'],
    'a bare carriage return': [[`X: x\rAuthorization: ${good}`], 400, 'invalid_request'],
    'more than 16 kB': [[`Authorization: Bearer ${'a'.repeat(17_000)}`], 431, 'headers_too_large'],
    'the token in a trailer': [chunked, 401, 'missing_token', trailer],
    'a bad one in the header, a good one in a trailer': [
      [`Authorization: Bearer ${stranger.token}`, ...chunked],
      401,
      'token_invalid',
      trailer,
    ],
  }
  for (const [name, [lines, status, code, body = '']] of Object.entries(requests)) {
    const reply = await askRaw(
      ['POST /logout HTTP/1.1', 'Host: x', 'Connection: close', ...lines, '', body].join('\r\n'),
    )
    t.match(reply, new RegExp(`^HTTP/1\\.1 ${status} `), name)
    t.match(reply, /^content-type: application\/problem\+json[;\r]/im, name)
    t.match(reply, `"code":"${code}"`, name)
  }
})

async function askRaw(text: string): Promise<string> {
  const socket = connect(Number(new URL(service.url).port), '127.0.0.1')
  socket.write(text)
  const chunks: Buffer[] = await socket.toArray()
  return Buffer.concat(chunks).toString()
}

t.test('after all that', async (t) => {
  t.test('the session that was aimed at is alive, and nothing was recorded', async (t) => {
    await assertVictimIsWell(t)
    const rows = await withClient(stores.env.DATABASE_URL as string, async (client) => {
      const revocations = await client.query('select * from revocations')
      const ended = await client.query('select id from sessions where ended_at is not null')
      return [...revocations.rows, ...ended.rows]
    })
    t.strictSame(rows, [])
  })

  t.test('no URL in a header was ever followed', async (t) => {
    t.equal(fetched, 0)
  })

  t.test('the replies do not tell which trick was seen through', async (t) => {
    t.strictSame(
      [...details].filter(([, texts]) => texts.size > 1),
      [],
    )
  })

  t.test('no token is in the log, and nothing counted as a fault of ours', async (t) => {
    const log = service.log.join('')
    const told = attempts
      .flatMap(({ headers }) => headers.flatMap((text) => text.split(/[ .]+/)))
      .filter((text) => text.length > 60 && log.includes(text))
    t.strictSame(told, [])
    t.notMatch(log, victim.refreshToken)
    t.strictSame(
      service.log.filter((line) => (JSON.parse(line) as { level: number }).level >= 40),
      [],
    )
  })

  t.test('they were many', async (t) => {
    const different = new Set(
      attempts.map(({ headers, query, body }) => JSON.stringify([headers, query, body])),
    )
    t.comment(
      `${different.size} different forgeries in ${Object.keys(attacks).length} kinds, each tried 4 times`,
    )
    t.ok(different.size >= 300)
  })
})

t.test(
  'spelt another way it is the same token, and logging it out by any spelling ends it in all',
  async (t) => {
    const made = token()
    const all = [made, ...spellingsOf(made)]
    t.equal(new Set(all).size, 32, '16 by unused bits, and as many again by the negated s')
    for (const spelling of [...all, ...all]) t.equal((await getProtected(spelling)).status, 200)

    const pairs = all.map((_, i) => {
      const original = token()
      return { original, spelling: [original, ...spellingsOf(original)][i] as string }
    })
    await Promise.all(
      pairs.map(async ({ original, spelling }) => {
        t.equal((await getProtected(spelling)).status, 200)
        t.equal((await postLogout(spelling)).status, 204)
        const siblings = [original, spelling, ...spellingsOf(original).slice(-2)]
        const seen = await Promise.all(siblings.map((text) => getProtected(text)))
        assertRefused(t, 'token_revoked', 'logged out by another spelling', ...seen)
        t.equal((await postLogout(original)).status, 204, 'once more is the same as once')
      }),
    )
  },
)

t.test('the spelling of a real session is taken back as the session is', async (t) => {
  const { token: real, sid } = await registerAndLogIn(service.url)
  const spelling = spellingsOf(real).at(-1) as string
  t.not(spelling, real)
  t.equal((await getProtected(spelling)).body.sid, sid)
  t.equal((await postLogout(spelling)).status, 204)
  assertRefused(t, 'token_revoked', 'as it was issued', await getProtected(real))
  assertRefused(t, 'token_revoked', 'as it was logged out', await getProtected(spelling))

  t.test('and a forgery of it does not learn that', async (t) => {
    const [first, second, signature] = segmentsOf(real)
    for (const forged of [
      `${first}.${second}.${flip(signature, 0)}`,
      `${first}.${flip(second, 300)}.${signature}`,
      compose(decode(first), decode(second), theirs),
      compose(decode(first).replace('at+jwt', 'JWT'), decode(second)),
    ]) {
      assertRefused(t, 'token_invalid', 'both', await getProtected(forged), await postLogout(forged))
    }
  })
})

t.test('a change that does not matter leaves a token good, and mortal', async (t) => {
  await Promise.all(
    Object.entries(unimportant).map(async ([name, make]) => {
      const made = make()
      for (const _round of ['cold', 'warm']) {
        const { status, body } = await getProtected(made)
        t.equal(status, 200, name)
        t.equal(body.sub, victim.id, name)
      }
      t.equal((await postLogout(made)).status, 204, name)
      assertRefused(t, 'token_revoked', name, await getProtected(made))
    }),
  )
})

t.test('a header that is spelt otherwise is still a header', async (t) => {
  const spellings = {
    'in small letters': `bearer ${victim.token}`,
    'in capitals': `BEARER ${victim.token}`,
    'in mixed letters': `bEaReR ${victim.token}`,
    'two spaces': `Bearer  ${victim.token}`,
    'many spaces': `Bearer${' '.repeat(500)}${victim.token}`,
    'spaces around it': `  Bearer ${victim.token}  `,
    'tabs around it': `\tBearer ${victim.token}\t`,
  }
  for (const [name, value] of Object.entries(spellings)) {
    for (const header of ['Authorization', 'authorization', 'AUTHORIZATION']) {
      const { status } = await ask(service.url, 'GET', '/protected', { headers: [header, value] })
      t.equal(status, 200, `${name}, ${header}`)
    }
  }
})

t.test('an expired token opens nothing, and still ends its session', async (t) => {
  await Promise.all(
    Object.entries(expiries).map(async ([name, exp]) => {
      const sid = JSON.stringify(randomUUID())
      const expired = token({ claims: { sid, exp: `${exp}` } })
      const sibling = token({ claims: { sid } })
      for (const _round of ['cold', 'warm'])
        assertRefused(t, 'token_expired', name, await getProtected(expired))
      t.equal((await getProtected(sibling)).status, 200)
      t.equal((await postLogout(expired)).status, 204, name)
      assertRefused(t, 'token_revoked', 'another token of that session', await getProtected(sibling))
    }),
  )
})

t.test('a token of another latchkey is nothing here, and the other way round', async (t) => {
  t.equal((await getProtected(stranger.token, other.url)).status, 200, 'it is good at home')
  for (const [foreign, url] of [
    [stranger.token, service.url],
    [victim.token, other.url],
  ] as const) {
    assertRefused(
      t,
      'token_invalid',
      'both',
      await getProtected(foreign, url),
      await postLogout(foreign, url),
    )
  }
})

t.test('what was taken back by any of the four scopes is refused, and nothing beside it', async (t) => {
  const expiresAt = now + 900 + 300
  const revoke = (scope: 'token' | 'session' | 'generation' | 'key', subject: string, app = service.app) =>
    app.revocation.revoke({ entries: [{ scope, subject, expiresAt }], reason: 'test' })
  const value = (text: string) => JSON.parse(text) as string

  const [jti, sid] = [JSON.stringify(randomUUID()), JSON.stringify(randomUUID())]
  const sub = randomUUID()
  const taken = token({ claims: { jti, sid } })
  const sibling = token({ claims: { sid } })
  const bystander = token()
  const ofGeneration = (ver: number) => token({ claims: { sub: JSON.stringify(sub), ver: `${ver}` } })
  const generations = [1, 2, 3].map(ofGeneration) as [string, string, string]

  await revoke('token', value(jti))
  assertRefused(t, 'token_revoked', 'the token', await getProtected(taken))
  t.equal((await getProtected(sibling)).status, 200)

  await revoke('session', value(sid))
  assertRefused(t, 'token_revoked', 'the session', await getProtected(sibling))

  await revoke('generation', `${sub}:2`)
  t.equal((await getProtected(generations[0])).status, 200)
  assertRefused(t, 'token_revoked', 'the generation', await getProtected(generations[1]))
  t.equal((await getProtected(generations[2])).status, 200)
  t.equal((await getProtected(bystander)).status, 200)

  await revoke('key', otherKid, other.app)
  assertRefused(t, 'token_revoked', 'the key', await getProtected(stranger.token, other.url))
  t.equal((await getProtected(bystander)).status, 200)
})

t.test('the token of a key that was removed is nothing any more', async (t) => {
  const removedStores = await postgresAndRedis(t)
  const before = await startInstance(t, { stores: removedStores, clock, env })
  const { token: old } = await registerAndLogIn(before.url)
  t.equal((await getProtected(old, before.url)).status, 200)
  await before.app.close()

  await withClient(removedStores.env.DATABASE_URL as string, (client) =>
    client.query(`update signing_keys set state = 'removed'`),
  )
  const { url } = await startInstance(t, { stores: removedStores, clock, env })
  for (const _round of ['cold', 'warm']) {
    assertRefused(t, 'token_invalid', 'both', await getProtected(old, url), await postLogout(old, url))
  }
  t.equal((await getProtected((await registerAndLogIn(url)).token, url)).status, 200, 'there is a new key')
})

t.test('misshapenClaim takes a service for one only by its own claims', async (t) => {
  const id = randomUUID()
  const { iss, aud, iat, exp, jti, ver } = JSON.parse(write(claims)) as Record<string, unknown>
  const good = { iss, aud, iat, exp, jti, ver, sub: id, client_id: id, scope: 'read write' }
  t.equal(misshapenClaim(good), undefined)
  t.equal(misshapenClaim({ ...good, scope: '' }), undefined)
  for (const scope of [' ', 'read ', 'a  b', 'a\nb', 'a,b', ['read'], null, 1])
    t.equal(misshapenClaim({ ...good, scope }), 'scope', JSON.stringify(scope))
  t.equal(misshapenClaim({ ...good, sid: randomUUID() }), 'sid', 'nobody is both')
  t.equal(misshapenClaim({ ...good, client_id: 'latchkey' }), 'sid', 'an app is not a service')
  t.equal(misshapenClaim({ ...good, sub: 'x', client_id: 'x' }), 'sub')
})

t.test('misshapenClaim names the claim that is wrong', async (t) => {
  const good = JSON.parse(write(claims)) as Record<string, unknown>
  t.equal(misshapenClaim(good), undefined)
  for (const [claim, wrong] of Object.entries(wrongClaims)) {
    for (const text of wrong) {
      const { [claim]: _, ...others } = good
      const payload = text === undefined ? others : { ...good, [claim]: JSON.parse(text) as unknown }
      t.equal(misshapenClaim(payload), claim, `${claim}: ${nameOf(text)}`)
    }
    for (const value of [undefined, NaN, 1n, Symbol.iterator, () => 1, Object('x'), Object(1)])
      t.equal(misshapenClaim({ ...good, [claim]: value }), claim, `${claim}: ${typeof value}`)
  }
})

t.test('presentedToken reads headers that Node would never hand it', async (t) => {
  const token = 'a.b.c'
  t.strictSame(presentedToken([]), { failure: 'missing_token' })
  t.strictSame(presentedToken(['Host', 'x', 'AUTHORIZATION', `bearer ${token}`]), { token })
  // A value that reads like a name is not one.
  t.strictSame(presentedToken(['X-A', 'Authorization', 'X-B', `Bearer ${token}`]), {
    failure: 'missing_token',
  })
  t.strictSame(presentedToken(['Authorization', 'authorization']), { failure: 'missing_token' })
  for (const space of ['\n', '\r\n', '\v', '\f', '\u00a0', '\u2028', '\ufeff'])
    t.strictSame(
      presentedToken(['Authorization', `Bearer${space}${token}`]),
      { failure: 'missing_token' },
      `U+${space.charCodeAt(0).toString(16)}`,
    )
  for (const value of ['Bearer', 'Bearer ', 'Bearer \t', `Bearer ${token} `, `Bearer ${token} x`])
    t.strictSame(presentedToken(['Authorization', value]), { failure: 'malformed_authorization' }, value)
})
