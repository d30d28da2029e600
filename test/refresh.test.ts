/**
 * Refresh tokens from outside, on two instances over one pair of stores and on the embedded one: who may use which token when,
 * what a second use brings, and who wins when something else happens to the session meanwhile.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { decodeJwt, decodeProtectedHeader } from 'jose'
import t, { type Test } from 'tap'
import type { Environment } from '../src/settings.ts'
import {
  createManualClock,
  embedded,
  postgresAndRedis,
  type Stores,
  startInstance,
  withClient,
} from './fixtures/app.ts'
import {
  assertLifetime,
  bearer,
  call,
  getProtected,
  type LoggedIn,
  logIn,
  logOut,
  post,
  type Refusal,
  type Reply,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { type Pair, startPair } from './fixtures/pair.ts'
import { startRelay } from './fixtures/relay.ts'
import { startPostgres } from './fixtures/servers.ts'

const hour = 3_600
const day = 24 * hour

interface Tokens {
  token: string
  refreshToken: string
}

/** All of the reply to a refresh that succeeds. */
function assertRefreshed(
  t: Test,
  { status, headers, body }: Reply,
  expected: { sid: string; expiresIn?: number; refreshExpiresIn?: number; newest?: string },
  name = 'refreshed',
): Tokens {
  const { sid, expiresIn = 900, refreshExpiresIn = 12 * hour, newest = body.refresh_token } = expected
  t.equal(status, 200, name)
  t.equal(headers.get('cache-control'), 'no-store')
  t.match(body.refresh_token, /^[\w-]{43}$/, name)
  t.strictSame(
    body,
    {
      access_token: body.access_token,
      token_type: 'Bearer',
      expires_in: body.expires_in,
      refresh_token: newest,
      refresh_expires_in: refreshExpiresIn,
      session_id: sid,
    },
    name,
  )
  const { iat = 0, exp = 0 } = decodeJwt(body.access_token)
  t.equal(exp - iat, body.expires_in, name)
  assertLifetime(t, body.expires_in, expiresIn, name)
  return { token: body.access_token, refreshToken: body.refresh_token }
}

function assertRefused(t: Test, reply: Reply, expected: Refusal, name: string): void {
  t.strictSame(refusalOf(reply), expected, name)
  t.equal(reply.headers.get('cache-control'), 'no-store', `${name}: kept by nobody`)
}

const invalid = refusal('refresh_token_invalid')
const reused = refusal('refresh_token_reused')

const hashOf = (refreshToken: string): string => createHash('sha256').update(refreshToken).digest('hex')

/** How many tokens of the session could be used: more than one would be a second branch. */
const unusedTokens = async ({ query }: Pair, sid: string) =>
  Number(
    (await query(`select count(*) from refresh_tokens where session_id = '${sid}' and used_at is null`))[0]
      ?.count,
  )

/** The audit's lines about the session, with where each one came from. */
const thefts = ({ a, b }: Pair, sid: string) =>
  [...new Set([a, b])]
    .flatMap(({ log }) => log.map((line) => JSON.parse(line)))
    .filter(({ audit }) => audit?.event === 'refresh_token.reused' && audit.sid === sid)

/** Uses up one token after the other, on alternating instances. */
async function refreshOften(
  t: Test,
  { a, b, clock }: Pair,
  { refreshToken, token, sid }: Pick<LoggedIn, 'refreshToken' | 'token' | 'sid'>,
  { times, every }: { times: number; every: number },
): Promise<[Tokens, ...Tokens[]]> {
  const generations: [Tokens, ...Tokens[]] = [{ token, refreshToken }]
  for (let i = 0; i < times; i++) {
    clock.advance(every)
    const newest = generations.at(-1) as Tokens
    generations.push(
      assertRefreshed(t, await refresh(i % 2 ? a.url : b.url, newest.refreshToken), { sid }, `${i}`),
    )
  }
  return generations
}

for (const storesOf of [postgresAndRedis, embedded]) {
  t.test(storesOf === embedded ? 'embedded' : 'two instances on Postgres and Redis', async (t) => {
    const w = await startPair(t, {}, storesOf)
    const { a, b, clock, query } = w

    t.test('a refresh gives new tokens, which tell of the session what its login told', async (t) => {
      const session = await registerAndLogIn(a.url)
      const login = decodeJwt(session.token)
      clock.advance(600)
      const first = assertRefreshed(t, await refresh(b.url, session.refreshToken), session)
      clock.advance(600)
      const second = assertRefreshed(t, await refresh(a.url, first.refreshToken), session)
      t.equal(new Set([session, first, second].map(({ refreshToken }) => refreshToken)).size, 3)
      t.equal(new Set([session, first, second].map(({ token }) => decodeJwt(token).jti)).size, 3)
      const { jti, exp = 0 } = decodeJwt(second.token)
      const iat = Math.floor(clock.now() / 1000)
      t.strictSame(
        decodeJwt(second.token),
        { ...login, jti, iat, exp },
        'only these three are new: auth_time, amr, acr, sid stay',
      )
      assertLifetime(t, exp - iat, 900)
      for (const { url } of [a, b]) {
        t.equal((await getProtected(url, second.token)).status, 200)
        t.equal((await getProtected(url, first.token)).status, 200, 'the one before lives to its end')
      }
    })

    t.test('within its grace a token gets the newest one, from whichever generation it is', async (t) => {
      const session = await registerAndLogIn(a.url)
      const generations = await refreshOften(t, w, session, { times: 5, every: 5 })
      const newest = generations.at(-1) as Tokens
      const ids = new Set<unknown>(generations.map(({ token }) => decodeJwt(token).jti))
      for (const [i, { refreshToken }] of generations.slice(0, -1).entries()) {
        for (const { url } of [a, b]) {
          const expected = { sid: session.sid, newest: newest.refreshToken }
          const { token } = assertRefreshed(t, await refresh(url, refreshToken), expected, `generation ${i}`)
          ids.add(decodeJwt(token).jti)
          t.equal((await getProtected(a.url, token)).status, 200)
        }
      }
      t.equal(ids.size, 6 + 10, 'each with an access token of its own')
      const after = assertRefreshed(t, await refresh(b.url, newest.refreshToken), session)
      t.not(after.refreshToken, newest.refreshToken, 'none of that has used it up')
      const [first] = generations
      assertRefreshed(t, await refresh(b.url, first.refreshToken), {
        sid: session.sid,
        newest: after.refreshToken,
      })
      t.equal(await unusedTokens(w, session.sid), 1)
      t.strictSame(thefts(w, session.sid), [])
    })

    t.test('the grace is over to the moment; a repeat does not prolong it', async (t) => {
      const session = await registerAndLogIn(a.url)
      const [first, , newest] = await refreshOften(t, w, session, { times: 2, every: 0 })
      for (const seconds of [15, 14.5]) {
        clock.advance(seconds)
        const refreshExpiresIn = 12 * hour - (seconds === 15 ? 15 : 29)
        const reply = await refresh(b.url, first.refreshToken)
        const left = reply.body.refresh_expires_in - refreshExpiresIn
        t.ok(left === 0 || left === -1, 'nor the wait of its successor')
        assertRefreshed(t, reply, {
          sid: session.sid,
          newest: newest?.refreshToken as string,
          refreshExpiresIn: refreshExpiresIn + left,
        })
      }
      clock.advance(0.5)
      assertRefused(t, await refresh(b.url, first.refreshToken), reused, 'after 30 seconds')
    })

    t.test(
      'a stolen token, two to five generations back, ends its session: every token of every generation, everywhere',
      async (t) => {
        const user = await registerAndLogIn(a.url)
        const logins = await Promise.all(Array.from({ length: 4 }, () => logIn(b.url, user)))
        const sessions = [user, ...logins]
        const histories = sessions.map(({ token, refreshToken }) => [{ token, refreshToken }])
        for (let i = 0; i < 5; i++) {
          clock.advance(31)
          await Promise.all(
            sessions.map(async (session, k) => {
              const history = histories[k] as Tokens[]
              const { refreshToken } = history[i] as Tokens
              const reply = await refresh((i + k) % 2 ? a.url : b.url, refreshToken)
              history.push(assertRefreshed(t, reply, session))
            }),
          )
        }

        const [untouched = [], ...stolen] = histories
        await Promise.all(
          stolen.map(async (history, k) => {
            const { sid } = logins[k] as LoggedIn
            const { refreshToken } = history[k] as Tokens
            const reply = await refresh(k % 2 ? a.url : b.url, refreshToken)
            assertRefused(t, reply, reused, `${5 - k} generations back`)
            await Promise.all(
              [a, b].flatMap(({ url }) =>
                history.map(async (generation, i) => {
                  const which = `generation ${i} of ${sid}`
                  assertRefused(t, await getProtected(url, generation.token), refusal('token_revoked'), which)
                  assertRefused(t, await refresh(url, generation.refreshToken), invalid, which)
                }),
              ),
            )
            const origin = { address: '127.0.0.1', reqId: reply.body.request_id }
            t.match(
              thefts(w, sid),
              [{ audit: { event: 'refresh_token.reused', sub: user.id, sid }, ...origin }],
              'told once, with its origin',
            )
            t.equal(thefts(w, sid).length, 1)
          }),
        )
        const sids = logins.map(({ sid }) => `'${sid}'`).join()
        const entries = await query(
          `select count(*) from revocations where scope = 'session' and reason = 'refresh_token_reused' and subject in (${sids})`,
        )
        t.match(entries, [{ count: /4/ }])
        t.match(await query(`select count(*) from sessions where ended_at is not null and id in (${sids})`), [
          { count: /4/ },
        ])

        const [parent, current] = untouched.slice(-2) as [Tokens, Tokens]
        t.equal((await getProtected(b.url, current.token)).status, 200, 'the other session goes on')
        assertRefreshed(t, await refresh(a.url, parent.refreshToken), {
          sid: user.sid,
          newest: current.refreshToken,
        })
        assertRefreshed(t, await refresh(a.url, current.refreshToken), user)
        const listed = await call(b.url, '/sessions', { headers: bearer(current.token) })
        t.match(listed.body.sessions, [{ id: user.sid, current: true }])
        t.equal(listed.body.sessions.length, 1)
      },
    )

    t.test('a lost reply is no theft: the successor waits for days, however often it is lost', async (t) => {
      const user = await registerAndLogIn(a.url)
      const session = await logIn(a.url, user, { remember: true })
      clock.advance(600)
      const { body: lost } = await refresh(a.url, session.refreshToken)
      for (const days of [3, 6, 9]) {
        clock.advance(3 * day)
        assertRefreshed(
          t,
          await refresh(b.url, session.refreshToken),
          {
            sid: session.sid,
            newest: lost.refresh_token,
            refreshExpiresIn: 30 * day - days * day - 600,
          },
          `after ${days} days`,
        )
      }
      const found = { sid: session.sid, refreshExpiresIn: 21 * day - 600 }
      const next = assertRefreshed(t, await refresh(a.url, lost.refresh_token), found)
      t.strictSame(thefts(w, session.sid), [])
      assertRefused(
        t,
        await refresh(a.url, session.refreshToken),
        reused,
        'but once the successor was presented it is',
      )
      assertRefused(t, await refresh(b.url, next.refreshToken), invalid, 'and ends the session')
    })

    t.test('a session ends idle, and no lost reply brings it back', async (t) => {
      const user = await registerAndLogIn(a.url)
      const remembered = await logIn(a.url, user, { remember: true })
      const session = await logIn(a.url, user)
      clock.advance(12 * hour - 2)
      const { refreshToken } = assertRefreshed(t, await refresh(a.url, session.refreshToken), session)
      clock.advance(12 * hour - 2)
      assertRefreshed(t, await refresh(b.url, session.refreshToken), {
        sid: session.sid,
        newest: refreshToken,
        refreshExpiresIn: 2,
      })
      clock.advance(2)
      for (const old of [session.refreshToken, refreshToken, user.refreshToken]) {
        for (const { url } of [a, b]) assertRefused(t, await refresh(url, old), invalid, 'idle')
      }
      t.strictSame(thefts(w, session.sid), [])
      assertRefreshed(t, await refresh(a.url, remembered.refreshToken), {
        sid: remembered.sid,
        refreshExpiresIn: 29 * day + 2,
      })
    })

    t.test('no token outlives its session, however often it is refreshed', async (t) => {
      const user = await registerAndLogIn(a.url)
      const { token: asked } = user
      let session = await logIn(a.url, user)
      const { iat: start = 0 } = decodeJwt(session.token)
      const end = start + 7 * day
      for (const left of [6.6 * day, 6.2 * day, 5.8 * day, 5.4 * day, 5 * day, 4.6 * day, 4.2 * day]) {
        clock.advance(end - left - clock.now() / 1000)
        session = { ...session, ...assertRefreshed(t, await refresh(b.url, session.refreshToken), session) }
      }
      for (let left = 3.8; left > 0.6; left -= 0.4) {
        clock.advance(end - left * day - clock.now() / 1000)
        session = { ...session, ...assertRefreshed(t, await refresh(a.url, session.refreshToken), session) }
      }
      const previous = session
      for (const left of [0.4 * day, 901, 600, 1]) {
        clock.advance(end - left - clock.now() / 1000)
        const expected = {
          sid: session.sid,
          expiresIn: Math.min(900, left),
          refreshExpiresIn: left,
        }
        session = {
          ...session,
          ...assertRefreshed(t, await refresh(b.url, session.refreshToken), expected, `${left} s before`),
        }
        t.equal((await getProtected(a.url, session.token)).status, 200)
      }
      clock.advance(1)
      for (const { refreshToken } of [session, previous]) {
        assertRefused(t, await refresh(a.url, refreshToken), invalid, 'at its end')
      }
      clock.advance(5)
      assertRefused(t, await getProtected(b.url, session.token), refusal('token_expired'), 'access')
      assertRefused(t, await getProtected(b.url, asked), refusal('token_expired'), 'access')
    })

    t.test('who is remembered may stay away for weeks, but not beyond the end', async (t) => {
      const user = await registerAndLogIn(a.url)
      const session = await logIn(a.url, user, { remember: true })
      clock.advance(29 * day)
      const { refreshToken } = assertRefreshed(t, await refresh(b.url, session.refreshToken), {
        sid: session.sid,
        refreshExpiresIn: day,
      })
      clock.advance(day)
      for (const old of [refreshToken, session.refreshToken]) {
        assertRefused(t, await refresh(b.url, old), invalid, 'after 30 days')
      }
    })

    t.test('after a logout a repeat within the grace is refused, and nobody is called a thief', async (t) => {
      const session = await registerAndLogIn(a.url)
      const generations = await refreshOften(t, w, session, { times: 2, every: 1 })
      t.equal((await logOut(b.url, session.token)).status, 204)
      clock.advance(1)
      await Promise.all(
        [a, b].flatMap(({ url }) =>
          generations.map(async ({ refreshToken }) =>
            assertRefused(t, await refresh(url, refreshToken), invalid, 'ended'),
          ),
        ),
      )
      t.strictSame(thefts(w, session.sid), [])
    })

    t.test('fifty at once with one token: one successor, and fifty good access tokens', async (t) => {
      const session = await registerAndLogIn(a.url)
      const replies = await Promise.all(
        Array.from({ length: 50 }, (_, i) => refresh(i % 2 ? a.url : b.url, session.refreshToken)),
      )
      const tokens = replies.map((reply) => assertRefreshed(t, reply, session))
      t.equal(new Set(tokens.map(({ refreshToken }) => refreshToken)).size, 1)
      t.equal(new Set(tokens.map(({ token }) => decodeJwt(token).jti)).size, 50)
      t.match(await query(`select count(*) from refresh_tokens where session_id = '${session.sid}'`), [
        { count: /^2$/ },
      ])
      for (const { token } of tokens) t.equal((await getProtected(a.url, token)).status, 200)
      const { refreshToken } = tokens[0] as Tokens
      assertRefreshed(t, await refresh(b.url, refreshToken), session)
    })

    t.test(
      'ten tabs that share a session and refresh as they please never throw each other out',
      async (t) => {
        const session = await registerAndLogIn(a.url)
        const held = await Promise.all(
          Array.from({ length: 10 }, async (_, tab) => {
            let { refreshToken } = session
            for (let i = 0; i < 6; i++) {
              const reply = await refresh((tab + i) % 2 ? a.url : b.url, refreshToken)
              refreshToken = assertRefreshed(t, reply, session).refreshToken
            }
            return refreshToken
          }),
        )
        t.equal(await unusedTokens(w, session.sid), 1)
        const newest = new Set<unknown>()
        for (const refreshToken of held.slice(1)) {
          const [row] = await query(
            `select used_at from refresh_tokens where hash = '\\x${hashOf(refreshToken)}'`,
          )
          if (row?.used_at) newest.add((await refresh(a.url, refreshToken)).body.refresh_token)
        }
        t.ok(newest.size <= 1, 'whoever is behind is brought to the same token')
      },
    )

    t.test('a session lives through a hundred generations, and remembers the first', async (t) => {
      const session = await registerAndLogIn(a.url)
      const generations = await refreshOften(t, w, session, { times: 100, every: 0.2 })
      const [first] = generations
      assertRefreshed(t, await refresh(b.url, first.refreshToken), {
        sid: session.sid,
        newest: generations.at(-1)?.refreshToken as string,
      })
      clock.advance(11)
      assertRefused(t, await refresh(b.url, first.refreshToken), reused, 'later')
    })

    t.test('what is no refresh token of this deployment is refused, and stirs up nothing', async (t) => {
      const session = await registerAndLogIn(a.url)
      const { refreshToken } = session
      const elsewhere = await registerAndLogIn(
        (await startInstance(t, { stores: await postgresAndRedis(t), clock })).url,
      )
      const rubbish = {
        nothing: '',
        'a blank': ' ',
        'one character': 'x',
        'well made, unknown': randomBytes(32).toString('base64url'),
        'of another deployment': elsewhere.refreshToken,
        'without its last character': refreshToken.slice(0, -1),
        'without its first character': refreshToken.slice(1),
        'with one more': `${refreshToken}A`,
        'with a line break': `${refreshToken}\n`,
        'with a blank': ` ${refreshToken}`,
        padded: `${refreshToken}=`,
        quoted: `"${refreshToken}"`,
        'in the other alphabet': Buffer.from(refreshToken, 'base64url').toString('base64'),
        'in other cases': refreshToken.replace(/[a-z]/gi, (c) =>
          c === c.toLowerCase() ? c.toUpperCase() : c.toLowerCase(),
        ),
        'spelt otherwise, the same bits': misspell(refreshToken),
        twice: refreshToken + refreshToken,
        'its hash': hashOf(refreshToken),
        'its hash as bytes': Buffer.from(hashOf(refreshToken), 'hex').toString('base64url'),
        'the id of its session': session.sid,
        'with a scheme': `Bearer ${refreshToken}`,
        SQL: `' or 1=1 --`,
        'SQL for bytes': `\\x${hashOf(refreshToken)}`,
        emoji: '🗝'.repeat(43),
        '16,000 characters': 'A'.repeat(16_000),
      }
      const before = a.log.length
      for (const [name, value] of Object.entries(rubbish)) {
        assertRefused(t, await refresh(a.url, value), invalid, name)
        for (const scope of ['session', 'others', 'all']) {
          const reply = await post(a.url, `/logout?scope=${scope}`, { refresh_token: value })
          assertRefused(t, reply, invalid, `${name}, to log out of ${scope}`)
        }
      }
      t.notOk(
        a.log.slice(before).some((line) => JSON.parse(line).level >= 50),
        'no error in the log: nothing of it has reached Postgres as text',
      )
      const notText = refusal('invalid_request', 'The body has a NUL or half a surrogate pair in it.')
      const shapes: [string, unknown, Refusal][] = [
        ['no body', undefined, invalid],
        ['an empty object', {}, invalid],
        ['null', { refresh_token: null }, refusal('invalid_request', 'body/refresh_token must be string.')],
        [
          'a list',
          { refresh_token: [refreshToken] },
          refusal('invalid_request', 'body/refresh_token must be string.'),
        ],
        [
          'one property more',
          { refresh_token: refreshToken, scope: 'x' },
          refusal('invalid_request', 'body must NOT have additional properties.'),
        ],
        ['a NUL', { refresh_token: `${refreshToken}\u0000` }, notText],
        ['half a character', { refresh_token: '\ud800' }, notText],
        ['a token that does not fit', { refresh_token: 'A'.repeat(16_384) }, refusal('payload_too_large')],
      ]
      for (const [name, body, expected] of shapes) {
        assertRefused(t, await post(a.url, '/refresh', body), expected, name)
      }
      const inHeader = await post(a.url, '/refresh', undefined, bearer(refreshToken))
      assertRefused(t, inHeader, invalid, 'in the header')
      assertRefreshed(t, await refresh(b.url, refreshToken), session, 'and it is still good')
    })

    t.test('access and refresh tokens are never taken for each other', async (t) => {
      const session = await registerAndLogIn(a.url)
      const used = session.refreshToken
      const { refreshToken } = assertRefreshed(t, await refresh(b.url, used), session)
      for (const presented of [refreshToken, used]) {
        for (const [method, path] of [
          ['GET', '/protected'],
          ['GET', '/me'],
          ['GET', '/sessions'],
          ['DELETE', `/sessions/${session.sid}`],
          ['POST', '/logout'],
          ['POST', '/logout?scope=others'],
          ['POST', '/logout?scope=all'],
        ] as const) {
          const reply = await call(b.url, path, { method, headers: bearer(presented) })
          assertRefused(t, reply, refusal('token_invalid'), `${method} ${path}`)
        }
      }
      assertRefused(t, await refresh(a.url, session.token), invalid, 'an access token to refresh')
      for (const scope of ['session', 'others', 'all']) {
        const reply = await post(a.url, `/logout?scope=${scope}`, { refresh_token: session.token })
        assertRefused(t, reply, invalid, `an access token as refresh token, to log out of ${scope}`)
      }
      t.equal((await getProtected(b.url, session.token)).status, 200)
      assertRefreshed(t, await refresh(a.url, refreshToken), session)
    })

    t.test('each thing that ends a session refuses its tokens, the used and the unused one', async (t) => {
      const past = `'${new Date(clock.now() - 1000).toISOString()}'`
      const changes = {
        'the session has ended': (sid: string) =>
          `update sessions set ended_at = ${past} where id = '${sid}'`,
        'it was idle for too long': (sid: string) =>
          `update sessions set idle_expires_at = ${past} where id = '${sid}'`,
        'it is past its end': (sid: string) => `update sessions set expires_at = ${past} where id = '${sid}'`,
        'a new password': (sid: string) =>
          `update users set generation = generation + 1 where id = (select user_id from sessions where id = '${sid}')`,
        'a ban': (sid: string) =>
          `update users set status = 'disabled' where id = (select user_id from sessions where id = '${sid}')`,
        'a deletion': (sid: string) =>
          `delete from users where id = (select user_id from sessions where id = '${sid}')`,
      }
      for (const [name, change] of Object.entries(changes)) {
        const session = await registerAndLogIn(a.url)
        const other = await registerAndLogIn(a.url)
        const { refreshToken } = assertRefreshed(t, await refresh(a.url, session.refreshToken), session)
        await query(change(session.sid))
        for (const presented of [refreshToken, session.refreshToken]) {
          assertRefused(t, await refresh(b.url, presented), invalid, name)
          for (const scope of ['others', 'all']) {
            const reply = await post(b.url, `/logout?scope=${scope}`, { refresh_token: presented })
            assertRefused(t, reply, invalid, `${name}: logout of ${scope}`)
          }
        }
        t.strictSame(thefts(w, session.sid), [])
        assertRefreshed(t, await refresh(b.url, other.refreshToken), other, `${name}, of somebody else`)
      }
    })

    t.test('who reads the database can present nothing', async (t) => {
      const session = await registerAndLogIn(a.url)
      const generations = await refreshOften(t, w, session, { times: 3, every: 2 })
      const tables = await query(
        `select table_schema || '.' || table_name as name from information_schema.tables
          where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')`,
      )
      const dump = async () => {
        let text = ''
        for (const { name } of tables) {
          for (const { row } of await query(`select t::text as row from ${name} t`)) text += `${row}\n`
        }
        return text.toLowerCase()
      }
      t.ok(tables.length >= 6)
      const written = await dump()
      t.ok(written.includes(hashOf(session.refreshToken)), 'a dump shows hashes')
      for (const { refreshToken } of generations) {
        for (const bytes of [Buffer.from(refreshToken), Buffer.from(refreshToken, 'base64url')]) {
          for (const encoding of ['hex', 'base64', 'base64url'] as const) {
            const form = bytes.toString(encoding).replace(/=+$/, '').toLowerCase()
            t.notOk(written.includes(form), encoding)
            // Postgres shows bytes in hex; they could be text themselves.
            t.notOk(written.includes(Buffer.from(form).toString('hex')), `${encoding} as bytes`)
          }
        }
      }
      const sealed = async () =>
        (
          await query(`select encode(hash, 'hex') as hash from refresh_tokens
            where session_id = '${session.sid}' and sealed_successor is not null`)
        ).map(({ hash }) => hash)
      const hashes = generations.map(({ refreshToken }) => hashOf(refreshToken))
      t.strictSame((await sealed()).sort(), hashes.slice(0, 3).sort(), 'sealed for the grace')
      clock.advance(31)
      const [newest] = await refreshOften(t, w, { ...session, ...generations[3] } as LoggedIn, {
        times: 1,
        every: 0,
      })
      t.strictSame(
        await sealed(),
        [hashOf(newest.refreshToken)],
        'and gone when it is over, but for what waits',
      )
    })

    t.test('after all that no token is in the log', async (t) => {
      const log = a.log.join('') + b.log.join('')
      t.ok(a.log.length > 100, 'the log was listening, at every level')
      t.notOk(/eyJ[\w-]+\.[\w-]+\.[\w-]+/.test(log), 'no access token')
      const { kid } = decodeProtectedHeader((await registerAndLogIn(a.url)).token)
      t.strictSame(
        [...log.matchAll(/"([\w-]{43})"/g)].filter(([, text]) => text !== kid),
        [],
        'nothing that looks like a refresh token',
      )
      t.notOk(/[0-9a-f]{64}/.test(log), 'no hash')
    })
  })
}

t.test('what happens to an account or a session while a refresh waits', async (t) => {
  const w = await startPair(t)
  const { a, b, query } = w
  const roles = (id: string) => `update users set roles = '{admin}', generation = 2 where id = '${id}'`

  t.test('a change of roles: every refresh brings the new ones, under the new generation', async (t) => {
    const user = await registerAndLogIn(a.url)
    const [twice, repeating] = [await logIn(a.url, user), await logIn(b.url, user)]
    const { refreshToken: newest } = assertRefreshed(
      t,
      await refresh(a.url, repeating.refreshToken),
      repeating,
    )
    const replies = await duringChange(
      t,
      w,
      [roles(user.id), `update sessions set generation = 2 where user_id = '${user.id}'`],
      () => [
        refresh(a.url, user.refreshToken),
        refresh(a.url, twice.refreshToken),
        refresh(b.url, twice.refreshToken),
        refresh(b.url, repeating.refreshToken),
      ],
    )
    const [, one, other] = replies
    t.equal(one?.body.refresh_token, other?.body.refresh_token)
    for (const [i, { sid }] of [user, twice, twice, repeating].entries()) {
      const expected = { sid, ...(sid === repeating.sid && { newest }) }
      const { token } = assertRefreshed(t, replies[i] as Reply, expected)
      t.match(decodeJwt(token), { ver: 2, roles: ['admin'] })
      for (const { url } of [a, b]) t.equal((await getProtected(url, token)).status, 200)
    }
  })

  t.test('a change of roles that is given up: the old roles, under the old generation', async (t) => {
    const user = await registerAndLogIn(a.url)
    const [reply] = await duringChange(
      t,
      w,
      [roles(user.id), `update sessions set generation = 2 where user_id = '${user.id}'`],
      () => [refresh(b.url, user.refreshToken)],
      'rollback',
    )
    const { token } = assertRefreshed(t, reply as Reply, user)
    t.match(decodeJwt(token), { ver: 1, roles: [] })
  })

  t.test('whatever ends the session wins', async (t) => {
    const changes: Record<string, (user: LoggedIn) => string> = {
      'a new password': ({ id }) => `update users set generation = 2, password_hash = 'x' where id = '${id}'`,
      'a ban': ({ id }) => `update users set generation = 2, status = 'disabled' where id = '${id}'`,
      'a ban that leaves the generation': ({ id }) =>
        `update users set status = 'disabled' where id = '${id}'`,
      'a deletion': ({ id }) => `delete from users where id = '${id}'`,
      'a logout': ({ sid }) => `update sessions set ended_at = now() where id = '${sid}'`,
    }
    for (const [name, change] of Object.entries(changes)) {
      const user = await registerAndLogIn(a.url)
      const { refreshToken } = assertRefreshed(t, await refresh(a.url, user.refreshToken), user)
      const replies = await duringChange(t, w, [change(user)], () => [
        refresh(a.url, refreshToken),
        refresh(b.url, refreshToken),
        refresh(b.url, user.refreshToken),
      ])
      for (const reply of replies) assertRefused(t, reply, invalid, name)
      t.strictSame(thefts(w, user.sid), [])
    }
  })

  t.test('a logout and a refresh at once: the session is over, whoever came first', async (t) => {
    const user = await registerAndLogIn(a.url)
    const outcomes = new Set<number>()
    // The head start grows until a refresh is in time.
    for (let headStartMs = 0; !outcomes.has(200); headStartMs++) {
      const sessions = await Promise.all(Array.from({ length: 8 }, () => logIn(a.url, user)))
      await Promise.all(
        sessions.map(async ({ token, refreshToken }, i) => {
          const [near, far] = i % 2 ? [a.url, b.url] : [b.url, a.url]
          const refreshing = refresh(near, refreshToken)
          const leaving = delay(headStartMs).then(() => logOut(far, token))
          const [refreshed, left] = await Promise.all([refreshing, leaving])
          t.equal(left.status, 204)
          if (refreshed.status === 200) {
            for (const { url } of [a, b]) {
              const held = await getProtected(url, refreshed.body.access_token)
              assertRefused(t, held, refusal('token_revoked'), 'the access token that came along')
              assertRefused(t, await refresh(url, refreshed.body.refresh_token), invalid, 'the successor')
            }
          } else assertRefused(t, refreshed, invalid, 'the refresh')
          outcomes.add(refreshed.status)
        }),
      )
    }
  })

  t.test('the thief and the owner at once: in the end nobody has anything', async (t) => {
    const user = await registerAndLogIn(a.url)
    const sessions = await Promise.all(Array.from({ length: 8 }, () => logIn(a.url, user)))
    const histories = await Promise.all(
      sessions.map((session) =>
        refreshOften(t, { ...w, clock: { ...w.clock, advance() {} } }, session, { times: 2, every: 0 }),
      ),
    )
    w.clock.advance(31)
    await Promise.all(
      histories.map(async ([stolen, used, held], i) => {
        const replies = await Promise.all([
          refresh(a.url, stolen.refreshToken),
          refresh(b.url, (held as Tokens).refreshToken),
          refresh(b.url, stolen.refreshToken),
          refresh(a.url, (used as Tokens).refreshToken),
        ])
        t.ok(
          replies.some(({ body }) => body.code === 'refresh_token_reused'),
          'the theft is noticed',
        )
        for (const reply of replies) {
          if (reply.status !== 200) {
            const noticed = reply.body.code === 'refresh_token_reused'
            assertRefused(t, reply, noticed ? reused : invalid, `session ${i}`)
          } else {
            const { token, refreshToken } = assertRefreshed(t, reply, {
              sid: sessions[i]?.sid as string,
              refreshExpiresIn: reply.body.refresh_expires_in,
            })
            for (const { url } of [a, b]) {
              assertRefused(t, await getProtected(url, token), refusal('token_revoked'), 'access')
              assertRefused(t, await refresh(url, refreshToken), invalid, 'refresh')
            }
          }
        }
      }),
    )
    for (const { sid } of sessions) {
      t.match(await query(`select ended_at is not null as ended from sessions where id = '${sid}'`), [
        { ended: true },
      ])
    }
  })
})

t.test('what ends a session outlives the longest token of it, whichever instance issued that', async (t) => {
  const w = await startPair(t, { ACCESS_TOKEN_TTL_SECONDS: '60' })
  const { a, b, stores, clock, query } = w
  const generous = await startInstance(t, {
    stores,
    clock,
    env: { ACCESS_TOKEN_TTL_SECONDS: `${day / 4}` },
  })
  const long = { expiresIn: day / 4 }
  const short = { expiresIn: 60 }
  /** Leave a session with a long token that the instance which ends it has never seen. */
  const ways: Record<string, (user: LoggedIn) => Promise<Tokens & { sid: string; first: string }>> = {
    started: async (user) => {
      const session = await logIn(generous.url, user)
      return { ...session, first: session.refreshToken }
    },
    rotated: async (user) => {
      const { sid, refreshToken: first } = await logIn(b.url, user)
      return { sid, first, ...assertRefreshed(t, await refresh(generous.url, first), { sid, ...long }) }
    },
    repeated: async (user) => {
      const { sid, refreshToken: first } = await logIn(b.url, user)
      const { refreshToken: newest } = assertRefreshed(t, await refresh(b.url, first), { sid, ...short })
      return {
        sid,
        first,
        ...assertRefreshed(t, await refresh(generous.url, first), { sid, newest, ...long }),
      }
    },
  }
  const endings: Record<
    string,
    (user: LoggedIn, other: Tokens & { sid: string }, stolen: string) => Promise<Reply>
  > = {
    'a logout': (_user, { token }) => logOut(a.url, token),
    'a logout by refresh token': (_user, { refreshToken }) =>
      post(a.url, '/logout', { refresh_token: refreshToken }),
    'a logout of the others': ({ token }) => post(a.url, '/logout?scope=others', undefined, bearer(token)),
    'a logout everywhere': ({ token }) => post(a.url, '/logout?scope=all', undefined, bearer(token)),
    'being ended from the list': ({ token }, { sid }) =>
      call(a.url, `/sessions/${sid}`, { method: 'DELETE', headers: bearer(token) }),
    'a theft': (_user, _other, stolen) => refresh(a.url, stolen),
  }
  const redis = new Redis(stores.env.REDIS_URL as string)
  t.teardown(() => redis.disconnect())
  await Promise.all(
    Object.entries(ways).flatMap(([way, issue]) =>
      Object.entries(endings).map(async ([ending, end]) => {
        const name = `${way}, ended by ${ending}`
        const user = await registerAndLogIn(a.url)
        const { sid, first, ...longest } = await issue(user)
        const { exp = 0, iat = 0 } = decodeJwt(longest.token)
        assertLifetime(t, exp - iat, day / 4)
        // Short ones after it shorten nothing.
        let newest: Tokens = longest
        for (let i = 0; i < 2; i++) {
          newest = assertRefreshed(t, await refresh(b.url, newest.refreshToken), { sid, ...short })
        }
        if (ending === 'a theft') {
          await query(
            `update refresh_tokens set used_at = used_at - interval '1 minute' where session_id = '${sid}'`,
          )
        }
        const reply = await end(user, { ...newest, sid }, first)
        t.equal(reply.status, ending === 'a theft' ? 401 : 204, name)
        const subject = ending.endsWith('everywhere') ? `${user.id}:1` : sid
        const [entry] = await query(
          `select extract(epoch from expires_at)::float8 as end from revocations where subject = '${subject}'`,
        )
        t.ok(Number(entry?.end) >= exp + 300, `${name}: ${entry?.end} is after ${exp}`)
        const key = ending.endsWith('everywhere') ? `rv:g:${subject}` : `rv:s:${subject}`
        const forgotten = clock.now() / 1000 + (await redis.ttl(key))
        t.ok(forgotten >= exp + 290, `${name}: the index too`)
        for (const { url } of [a, b, generous]) {
          assertRefused(t, await getProtected(url, longest.token), refusal('token_revoked'), name)
        }
      }),
    ),
  )

  const gone = await registerAndLogIn(generous.url)
  await query(`delete from users where id = '${gone.id}'`)
  t.equal((await logOut(a.url, gone.token)).status, 204)
  const { exp = 0 } = decodeJwt(gone.token)
  const [entry] = await query(
    `select extract(epoch from expires_at)::float8 as end from revocations where subject = '${gone.sid}'`,
  )
  t.ok(Number(entry?.end) >= exp + 300, 'even where nothing is left of it but the token')
})

t.test(
  'the grace is as long as it is set to; without one, who repeats a request still gets its reply',
  async (t) => {
    for (const [setting, after] of [
      ['0', 0],
      ['90', 89.5],
    ] as const) {
      const w = await startPair(t, { REFRESH_GRACE_SECONDS: setting })
      const { a, b, clock } = w
      const session = await registerAndLogIn(a.url)
      const replies = await Promise.all(
        Array.from({ length: 20 }, (_, i) => refresh(i % 2 ? a.url : b.url, session.refreshToken)),
      )
      const [first] = replies.map((reply) => assertRefreshed(t, reply, session, setting))
      t.equal(new Set(replies.map(({ body }) => body.refresh_token)).size, 1)
      const newest = assertRefreshed(t, await refresh(b.url, first?.refreshToken as string), session)
      if (after > 0) {
        clock.advance(after)
        const { body } = await refresh(a.url, session.refreshToken)
        t.equal(body.refresh_token, newest.refreshToken, `${after} s later`)
        clock.advance(0.5)
      }
      assertRefused(t, await refresh(a.url, session.refreshToken), reused, `after ${setting} s`)
    }
  },
)

t.test(
  'a theft is answered when no instance takes the stolen tokens any more, without any Redis',
  async (t) => {
    const stores = await postgresAndRedis(t)
    const clock = createManualClock()
    const withoutRedis = { env: { ...stores.env, REDIS_URL: undefined } }
    const start = (env: Environment) => startInstance(t, { stores: withoutRedis, clock, env })
    const slow = await start({ REVOCATION_TAIL_MS: '400', REVOCATION_FRESH_MS: '800' })
    const quick = await start({})
    for (let i = 0; i < 3; i++) {
      const session = await registerAndLogIn(quick.url)
      const first = assertRefreshed(t, await refresh(quick.url, session.refreshToken), session)
      const second = assertRefreshed(t, await refresh(slow.url, first.refreshToken), session)
      t.equal((await getProtected(slow.url, second.token)).status, 200)
      clock.advance(30)
      assertRefused(t, await refresh(quick.url, session.refreshToken), reused, 'the thief')
      for (const { token } of [session, first, second]) {
        assertRefused(t, await getProtected(slow.url, token), refusal('token_revoked'), 'held')
      }
    }
  },
)

t.test('behind a pooler a refresh finds its statement, or does without', async (t) => {
  const { a, b, query } = await startPair(t)
  const session = await registerAndLogIn(b.url)
  // On every connection that the next refresh may get.
  await Promise.allSettled(Array.from({ length: 10 }, () => query('prepare rotation as select 1')))
  const first = assertRefreshed(t, await refresh(a.url, session.refreshToken), session, 'it is there already')
  const second = assertRefreshed(t, await refresh(b.url, first.refreshToken), session, 'it is planned')
  // On the connection that was used last, which is the next one's too.
  await b.app.database.db.execute('deallocate all')
  assertRefreshed(t, await refresh(b.url, second.refreshToken), session, 'it is gone')
})

t.test('a refresh that waited goes on, whatever the isolation that the database is set to', async (t) => {
  for (const isolation of ['repeatable read', 'serializable']) {
    const stores = await postgresAndRedis(t)
    await withClient(stores.env.DATABASE_URL as string, async (client) => {
      const { rows } = await client.query<{ name: string }>('select current_database() as name')
      await client.query(`alter database ${rows[0]?.name} set default_transaction_isolation = '${isolation}'`)
    })
    const w = await startPair(t, {}, async () => stores)
    const { a, b } = w
    const user = await registerAndLogIn(a.url)
    const replies = await duringChange(
      t,
      w,
      [
        `update users set roles = '{admin}', generation = 2 where id = '${user.id}'`,
        `update sessions set generation = 2 where user_id = '${user.id}'`,
      ],
      () => [a, b, a, b].map(({ url }) => refresh(url, user.refreshToken)),
    )
    for (const reply of replies) {
      t.match(decodeJwt(assertRefreshed(t, reply, user, isolation).token), { ver: 2, roles: ['admin'] })
    }
    t.equal(new Set(replies.map(({ body }) => body.refresh_token)).size, 1)
    t.equal(await unusedTokens(w, user.sid), 1)
  }
})

t.test('Postgres goes away', async (t) => {
  t.test('between commit and reply: the retry gets the successor that was committed', async (t) => {
    const { env } = await postgresAndRedis(t)
    const relay = await startRelay(t, env.DATABASE_URL as string)
    const clock = createManualClock()
    const b = await startInstance(t, { stores: { env }, clock })
    const a = await startInstance(t, {
      stores: { env: { ...env, DATABASE_URL: relay.url } },
      clock,
    })
    const query = (text: string) => withClient(env.DATABASE_URL as string, (client) => client.query(text))
    for (const kind of ['a rotation', 'a repeat']) {
      const session = await registerAndLogIn(a.url)
      const used = `select from refresh_tokens where hash = '\\x${hashOf(session.refreshToken)}' and used_at is not null`
      if (kind === 'a repeat') await refresh(a.url, session.refreshToken)
      relay.mute()
      const refreshing = refresh(a.url, session.refreshToken)
      await eventually(t, async () => (await query(used)).rowCount === 1)
      relay.cut()
      assertRefused(t, await refreshing, refusal('unavailable'), kind)
      const { rows } = await query(
        `select encode(successor, 'hex') as successor from refresh_tokens where hash = '\\x${hashOf(session.refreshToken)}'`,
      )
      clock.advance(hour)
      const left = { sid: session.sid, refreshExpiresIn: 11 * hour }
      const retried = assertRefreshed(t, await refresh(b.url, session.refreshToken), left, kind)
      t.equal(hashOf(retried.refreshToken), rows[0]?.successor, 'the one that was committed')
      await relay.mend()
      const again = { ...left, newest: retried.refreshToken }
      assertRefreshed(t, await refresh(a.url, session.refreshToken), again, kind)
      assertRefreshed(t, await refresh(a.url, retried.refreshToken), session, kind)
    }
  })

  t.test(
    'before a theft is recorded: it is not answered as one, refused all the same, and recorded later',
    async (t) => {
      const { env } = await postgresAndRedis(t)
      const relay = await startRelay(t, env.DATABASE_URL as string)
      const clock = createManualClock()
      const b = await startInstance(t, { stores: { env }, clock })
      const a = await startInstance(t, {
        stores: { env: { ...env, DATABASE_URL: relay.url } },
        clock,
      })
      const w: Pair = { a, b, stores: { env }, clock, query: async () => [] }
      const session = await registerAndLogIn(a.url)
      const [stolen, , held] = await refreshOften(t, w, session, { times: 2, every: 0 })
      const { token, refreshToken } = held as Tokens
      clock.advance(31)
      await withClient(env.DATABASE_URL as string, async (client) => {
        await client.query('begin')
        await client.query('select from revocation_head for update')
        const presenting = refresh(a.url, stolen.refreshToken)
        await eventually(t, async () => {
          const { rowCount } = await withClient(env.DATABASE_URL as string, (watcher) =>
            watcher.query(
              `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
            ),
          )
          return rowCount === 1
        })
        relay.cut()
        const notRecorded = refusal('unavailable', 'The revocation could not be recorded yet.')
        assertRefused(t, await presenting, notRecorded, 'the thief')
        for (const { url } of [a, b]) {
          assertRefused(t, await getProtected(url, token), refusal('token_revoked'), 'refused already')
        }
        await client.query('rollback')
      })
      await relay.mend()
      await eventually(t, async () => a.log.some((line) => line.includes('revocation.recorded_late')))
      for (const presented of [refreshToken, stolen.refreshToken]) {
        assertRefused(t, await refresh(b.url, presented), invalid, 'in the end')
      }
    },
  )

  t.test(
    'by kill -9, with synchronous_commit = off: no login and no rotation that was told is lost, and none that was not is theft',
    async (t) => {
      const server = await startPostgres({ settings: { synchronous_commit: 'off', wal_writer_delay: '10s' } })
      t.teardown(() => server.stop())
      const relay = await startRelay(t, server.url)
      const clock = createManualClock()
      const a = await startInstance(t, {
        stores: { env: { DATABASE_URL: relay.url, KEY_ENCRYPTION_SECRET: randomUUID() } },
        clock,
      })
      const user = await registerAndLogIn(a.url)
      const [told, lost] = [await logIn(a.url, user), await logIn(a.url, user)]
      const revive = async () => {
        await server.kill('SIGKILL')
        await server.start()
        await eventually(t, async () => (await call(a.url, '/health/ready')).body.mode === 'tail')
      }

      const { refreshToken } = assertRefreshed(t, await refresh(a.url, told.refreshToken), told)
      await revive()
      clock.advance(hour)
      const repeated = { sid: told.sid, newest: refreshToken, refreshExpiresIn: 11 * hour }
      assertRefreshed(t, await refresh(a.url, told.refreshToken), repeated, 'told, then killed')
      assertRefreshed(t, await refresh(a.url, refreshToken), told, 'told, then killed')

      const late = await logIn(a.url, user)
      await revive()
      assertRefreshed(t, await refresh(a.url, late.refreshToken), late, 'a login that was told, then killed')

      relay.mute()
      const refreshing = refresh(a.url, lost.refreshToken)
      const used = `select encode(successor, 'hex') as successor from refresh_tokens
      where hash = '\\x${hashOf(lost.refreshToken)}' and used_at is not null`
      const committed = () => withClient(server.url, (client) => client.query<{ successor: string }>(used))
      await eventually(t, async () => (await committed()).rowCount === 1)
      const { rows } = await committed()
      await server.kill('SIGKILL')
      assertRefused(t, await refreshing, refusal('unavailable'), 'killed before it was told')
      await server.start()
      await eventually(t, async () => (await call(a.url, '/health/ready')).body.mode === 'tail')
      clock.advance(hour)
      const retried = await refresh(a.url, lost.refreshToken)
      const left = { sid: lost.sid, refreshExpiresIn: 11 * hour }
      t.equal(hashOf(assertRefreshed(t, retried, left).refreshToken), rows[0]?.successor, 'the retry')
    },
  )
})

/** Asks while a transaction keeps what it has changed to itself, and ends that once every request waits for it. */
async function duringChange(
  t: Test,
  { stores, query }: Pair,
  changes: string[],
  ask: () => Promise<Reply>[],
  end: 'commit' | 'rollback' = 'commit',
): Promise<Reply[]> {
  return await withClient(stores.env.DATABASE_URL as string, async (client) => {
    await client.query('begin')
    for (const change of changes) await client.query(change)
    const asked = ask()
    const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
    await eventually(t, async () => (await query(waiting)).length === asked.length, 1_500)
    await client.query(end)
    return await Promise.all(asked)
  })
}

/** The same 32 bytes in other characters: the last one carries two bits that mean nothing. */
function misspell(refreshToken: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  return refreshToken.slice(0, -1) + alphabet[alphabet.indexOf(refreshToken.slice(-1)) ^ 1]
}

t.test(
  'whoever hears that a session was stolen hears it when it is dead everywhere, the second time too',
  async (t) => {
    const { env } = await postgresAndRedis(t)
    // Without an index, the hold alone makes it so; and it is long enough to ask twice within it.
    const stores: Stores = { env: { ...env, REDIS_URL: undefined } }
    const slow = { REVOCATION_TAIL_MS: '700', REVOCATION_FRESH_MS: '1500' }
    const clock = createManualClock()
    const [a, b] = [
      await startInstance(t, { stores, clock, env: slow }),
      await startInstance(t, { stores, clock, env: slow }),
    ]
    const { refreshToken: stolen, sid } = await registerAndLogIn(a.url)
    const second = (await refresh(a.url, stolen)).body
    const third = (await refresh(a.url, second.refresh_token)).body
    clock.advance(31)

    const first = refresh(a.url, stolen)
    await withClient(stores.env.DATABASE_URL as string, async (client) => {
      const ended = 'select from sessions where id = $1 and ended_at is not null'
      await eventually(t, async () => (await client.query(ended, [sid])).rowCount === 1)
    })
    assertRefused(t, await refresh(a.url, stolen), refusal('refresh_token_invalid'), 'during the hold')
    const reply = await getProtected(b.url, third.access_token)
    assertRefused(t, reply, refusal('token_revoked'), 'on the other instance')
    assertRefused(t, await first, refusal('refresh_token_reused'), 'the first time')
  },
)
