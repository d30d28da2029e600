/** What is remembered of a token spares its signature the next check, and nothing else. */
import { randomBytes, randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { createVerifiedTokens } from '../src/bearer/verified-tokens.ts'
import type { InspectedToken } from '../src/plugins/token-inspection.ts'
import { createManualClock, postgresAndRedis, startInstance, withClient } from './fixtures/app.ts'
import { getProtected, logOut, refusal, refusalOf, registerAndLogIn } from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'

const randomSignature = () => randomBytes(64).toString('base64url')

t.test('a token is found by all of its characters', async (t) => {
  const tokens = createVerifiedTokens<{ presented: string }>(10)
  const signature = randomSignature()
  const token = `header.payload.${signature}`
  const verified = { presented: token }
  tokens.add(verified)
  t.equal(tokens.find(token), verified)
  for (const other of [
    `header.payloae.${signature}`,
    `headers.payload.${signature}`,
    signature,
    signature.slice(-12),
    `${token} `,
    token.slice(0, -1),
    '',
  ])
    t.equal(tokens.find(other), undefined, other)
  t.equal(tokens.find(token), verified, 'still')
})

t.test(
  'what is used stays, what is not is forgotten, and there are never more than twice as many',
  async (t) => {
    const max = 100
    const tokens = createVerifiedTokens<{ presented: string }>(max)
    const made = Array.from({ length: 1000 }, () => `header.payload.${randomSignature()}`)
    const [used = ''] = made
    for (const token of made) {
      tokens.add({ presented: token })
      if (!tokens.find(used)) t.fail('the one in use was forgotten')
    }
    // From the last one on: looking for one is using it.
    const kept = made.toReversed().map((token) => tokens.find(token) !== undefined)
    t.notOk(kept.slice(0, max).includes(false), 'the last ones are there')
    t.ok(kept.filter(Boolean).length <= 2 * max)
  },
)

t.test('a token that was let through', async (t) => {
  const stores = await postgresAndRedis(t)
  const clock = createManualClock()
  const { app, url } = await startInstance(t, { stores, clock, env: { ACCESS_TOKEN_TTL_SECONDS: '900' } })
  const letThrough = async (t: Test) => {
    const { token } = await registerAndLogIn(url)
    for (const round of ['cold', 'warm']) t.equal((await getProtected(url, token)).status, 200, round)
    return token
  }

  t.test('says the same to everybody, whoever reads it', async (t) => {
    const token = app.recallToken(`Bearer ${await letThrough(t)}`) as InspectedToken
    const claims = token.claims as unknown as {
      roles: string[]
      amr: string[]
      sub: string
    }
    t.throws(() => {
      token.claims = { ...token.claims }
    }, TypeError)
    t.throws(() => {
      claims.sub = randomUUID()
    }, TypeError)
    t.throws(() => claims.roles.push('admin'), TypeError)
    t.throws(() => claims.amr.push('otp'), TypeError)
  })

  t.test('is refused once it was taken back', async (t) => {
    const token = await letThrough(t)
    t.equal((await logOut(url, token)).status, 204)
    t.strictSame(refusalOf(await getProtected(url, token)), refusal('token_revoked'))
  })

  t.test('is refused once it has expired, and while the clock says that it was not issued yet', async (t) => {
    const token = await letThrough(t)
    clock.advance(-60)
    t.strictSame(refusalOf(await getProtected(url, token)), refusal('token_invalid'))
    clock.advance(60)
    t.equal((await getProtected(url, token)).status, 200)
    clock.advance(906)
    t.strictSame(refusalOf(await getProtected(url, token)), refusal('token_expired'))
  })

  t.test('is refused once its key is known to be gone', async (t) => {
    const token = await letThrough(t)
    const [, payload, signature] = token.split('.')
    const ofUnknownKey = `${Buffer.from('{"alg":"ES256","kid":"x","typ":"at+jwt"}').toString('base64url')}.${payload}.${signature}`
    await withClient(stores.env.DATABASE_URL as string, (client) =>
      client.query(`update signing_keys set state = 'removed'`),
    )
    // An unknown key makes the service read its keys anew, at most once a second.
    await eventually(t, async () => {
      await getProtected(url, ofUnknownKey)
      return (await getProtected(url, token)).status === 401
    })
    t.strictSame(refusalOf(await getProtected(url, token)), refusal('token_invalid'))
  })
})

t.test('a token that was refused is judged anew, for its key may have become known', async (t) => {
  const [stores, others] = [await postgresAndRedis(t), await postgresAndRedis(t)]
  others.env = { ...others.env, KEY_ENCRYPTION_SECRET: stores.env.KEY_ENCRYPTION_SECRET }
  const { url } = await startInstance(t, { stores })
  const other = await startInstance(t, { stores: others })
  const { token } = await registerAndLogIn(other.url)
  for (const round of ['cold', 'warm'])
    t.strictSame(refusalOf(await getProtected(url, token)), refusal('token_invalid'), round)

  const { rows } = await withClient(others.env.DATABASE_URL as string, (client) =>
    client.query('select * from signing_keys'),
  )
  await withClient(stores.env.DATABASE_URL as string, (client) =>
    client.query(
      `insert into signing_keys (kid, alg, state, public_jwk, sealed_private_key, created_at)
       values ($1, $2, 'retiring', $3, $4, $5)`,
      ['kid', 'alg', 'public_jwk', 'sealed_private_key', 'created_at'].map((name) => rows[0][name]),
    ),
  )
  await eventually(t, async () => (await getProtected(url, token)).status === 200)
})
