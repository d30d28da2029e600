/** Whether the time that a refusal takes tells who has an account. */
import { createHash, randomBytes } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import pg from 'pg'
import { SMTPServer } from 'smtp-server'
import { makeAccounts, password, usernameOf } from './accounts.ts'
import { startLatchkey } from './contestants.ts'
import type { Chapter } from './report.ts'
import { showSpread, spreadOf } from './rounds.ts'

const seed = 20_261_128
/** Below and above, somebody who asks often enough can tell. */
const [lowest, highest] = [0.45, 0.55]

/** Who is asked about, each with a request of their own. */
type Asked = Record<string, (n: number) => { path: string; body: object }>

export const enumeration: Chapter = async ({ quick, startStores }) => {
  const stores = await startStores()
  const mailServer = new SMTPServer({
    authOptional: true,
    onData: (stream, _session, done) => stream.resume().on('end', () => done()),
  })
  await new Promise<void>((listening) => mailServer.listen(0, '127.0.0.1', listening))
  const { port } = mailServer.server.address() as AddressInfo
  const service = await startLatchkey(stores, {
    // Whoever measures has many addresses.
    RATE_MAX: '0',
    LOGIN_RATE_MAX: '0',
    ACCOUNT_RATE_MAX: '0',
    SMTP_URL: `smtp://127.0.0.1:${port}`,
    MAIL_FROM: 'latchkey@localhost',
  })
  const client = new pg.Client({ connectionString: stores.databaseUrl })
  await client.connect()
  try {
    await makeAccounts(stores.databaseUrl)
    await client.query(`update users set email = username || '@example.org', email_verified_at = now()`)
    await client.query(`update users set status = 'disabled' where username like '%9'`)
    const challengeOf = await makeChallenges(client)

    const wrong = 'battery horse correct'
    const known = (n: number) => usernameOf(n * 10)
    const disabled = (n: number) => usernameOf(n * 10 + 9)
    const nobody = (n: number) => `nobody${n % 100}`
    const logIn = (username: string, password: string) => ({ path: '/login', body: { username, password } })
    const forgot = (username: string) => ({ path: '/password/forgot', body: { username } })
    const complete = (mfa_token: string) => ({ path: '/login/mfa', body: { mfa_token, code: '000000' } })
    const doors: Record<string, Asked> = {
      'POST /login': {
        'a wrong password': (n) => logIn(known(n), wrong),
        'nobody’s name': (n) => logIn(nobody(n), wrong),
        'a disabled account, the right password': (n) => logIn(disabled(n), password),
      },
      'POST /password/forgot': {
        'a verified address': (n) => forgot(known(n)),
        'nobody’s name': (n) => forgot(nobody(n)),
        'a disabled account': (n) => forgot(disabled(n)),
      },
      'POST /login/mfa': {
        'a login of a disabled account': (n) => complete(challengeOf(n)),
        'no login': () => complete(randomBytes(32).toString('base64url')),
      },
    }
    const rows: string[][] = []
    let isTold = false
    for (const [door, asked] of Object.entries(doors)) {
      const rounds = quick ? 1 : 7
      const samples = door === 'POST /login' ? 100 : 400
      const areas: Record<string, number[]> = {}
      for (let round = -1; round < rounds; round++) {
        const times = await measure(service.url, asked, quick ? 20 : samples, seed + round)
        const [[, base], ...others] = Object.entries(times) as [[string, number[]], ...[string, number[]][]]
        // The first one makes everything hot.
        if (round >= 0)
          for (const [who, those] of others) areas[who] = [...(areas[who] ?? []), areaUnderCurve(base, those)]
      }
      const [base] = Object.keys(asked)
      for (const [who, area] of Object.entries(areas)) {
        const spread = spreadOf(area)
        isTold ||= !quick && (spread.median < lowest || spread.median > highest)
        rows.push([`${door}: ${who}`, base as string, showSpread(spread)])
      }
    }
    if (isTold) process.exitCode = 1
    return [
      {
        title: 'What a refusal tells by its time',
        about: `One request after the other, in an order that is drawn anew each time (seed ${seed}). The area under the curve is how often the one
takes longer than the other: 0.5 is what tossing a coin tells. It is meant to be within ${lowest} and ${highest}, and the benchmark fails
beyond. Replies that are not the same, but for their \`request_id\`, end it at once.`,
        columns: ['', 'beside', 'area under the curve'],
        rows,
      },
    ]
  } finally {
    await client.end()
    await service.end()
    await new Promise<void>((closed) => mailServer.close(() => closed()))
  }
}

/** Logins that wait for their second factor, of accounts that were disabled meanwhile. @returns the mfa_token of each */
async function makeChallenges(client: pg.Client): Promise<(n: number) => string> {
  const tokens = Array.from({ length: 100 }, () => randomBytes(32).toString('base64url'))
  await client.query(
    `insert into mfa_challenges (hash, user_id, generation, remember, expires_at)
      select hash, (select id from users where status = 'disabled' limit 1), 1, false, now() + interval '1 day'
      from unnest($1::bytea[]) hash`,
    [tokens.map((token) => createHash('sha256').update(token).digest())],
  )
  return (n) => tokens[n % tokens.length] as string
}

/** @returns milliseconds, for each who was asked about */
async function measure(
  url: string,
  asked: Asked,
  samples: number,
  seed: number,
): Promise<Record<string, number[]>> {
  const random = createRandom(seed)
  const turns = Object.keys(asked).flatMap((who) => Array.from({ length: samples }, (_, n) => ({ who, n })))
  for (let i = turns.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    ;[turns[i], turns[j]] = [turns[j] as (typeof turns)[0], turns[i] as (typeof turns)[0]]
  }
  const times: Record<string, number[]> = Object.fromEntries(Object.keys(asked).map((who) => [who, []]))
  let told: string | undefined
  for (const { who, n } of turns) {
    const { path, body } = (asked[who] as Asked[string])(n)
    const startedAt = performance.now()
    const reply = await fetch(url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    const text = await reply.text()
    times[who]?.push(performance.now() - startedAt)
    const shown = `${reply.status} ${text.replace(/"request_id":"[^"]*"/, '')}`
    told ??= shown
    if (shown !== told) throw new Error(`${path} tells ${who} from others: ${shown}`)
  }
  return times
}

/** How often a sample of the one is greater than a sample of the other (Mann-Whitney). */
function areaUnderCurve(ones: readonly number[], others: readonly number[]): number {
  let greater = 0
  for (const one of ones) for (const other of others) greater += one > other ? 1 : one === other ? 0.5 : 0
  return greater / (ones.length * others.length)
}

/** Mulberry32: the same numbers for the same seed. */
function createRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
