/**
 * How sessions are seen and ended, by every way in, on two instances over one pair of stores and on the embedded one; and who
 * wins when several do it at once.
 */
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { decodeJwt } from 'jose'
import t, { type Test } from 'tap'
import { purge } from '../src/db/purge.ts'
import { deleteExpiredRefreshTokens, deleteExpiredSessions } from '../src/sessions/expired.ts'
import {
  embedded,
  type Instance,
  postgresAndRedis,
  randomUser,
  startInstance,
  withClient,
} from './fixtures/app.ts'
import {
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

const day = 86_400

type Session = Omit<LoggedIn, 'id'>

function assertRefused(t: Test, reply: Reply, expected: Refusal, name: string): void {
  t.strictSame(refusalOf(reply), expected, name)
  t.equal(reply.headers.get('cache-control'), 'no-store', `${name}: kept by nobody`)
}

function assertEnded(t: Test, { status, headers, body }: Reply, name: string): void {
  t.strictSame([status, body, headers.get('content-type')], [204, '', null], name)
}

async function assertGoesOn(t: Test, { a, b }: Pair, session: Session, name: string): Promise<void> {
  for (const { url } of [a, b]) t.equal((await getProtected(url, session.token)).status, 200, name)
  t.equal((await refresh(b.url, session.refreshToken)).status, 200, `${name}: its refresh token`)
}

/** Of all of them at once, and everywhere: whoever refreshes a dead session waits for the hold. */
async function assertOver(t: Test, { a, b }: Pair, sessions: Session[], name: string): Promise<void> {
  const asked = sessions.flatMap((session) => [a, b].map(({ url }) => ({ url, ...session })))
  await Promise.all(
    asked.map(async ({ url, token, refreshToken }) => {
      assertRefused(t, await getProtected(url, token), refusal('token_revoked'), name)
      assertRefused(t, await refresh(url, refreshToken), refusal('refresh_token_invalid'), name)
    }),
  )
}

const list = (url: string, token: string) => call(url, '/sessions', { headers: bearer(token) })
const endOne = (url: string, token: string, sid: string) =>
  call(url, `/sessions/${sid}`, { method: 'DELETE', headers: bearer(token) })
const leave = (url: string, scope: string, token: string) =>
  post(url, `/logout?scope=${scope}`, undefined, bearer(token))
const leaveBy = (url: string, scope: string, refreshToken: string) =>
  post(url, `/logout?scope=${scope}`, { refresh_token: refreshToken })

t.test('a session tells where it was last used from, and with what', async (t) => {
  const { url } = await startInstance(t, { stores: await embedded(t), env: { TRUST_PROXY: '127.0.0.1' } })
  const from = (address: string, userAgent: string) => ({
    'x-forwarded-for': address,
    'user-agent': userAgent,
  })
  const firefox = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
  const safari =
    'Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1'
  const user = randomUser()
  await post(url, '/register', user)
  const { body } = await post(url, '/login', user, from('192.0.2.1', firefox))
  const used = async (how: string, address: string, userAgent: string) => {
    const { status } = await post(
      url,
      '/refresh',
      { refresh_token: body.refresh_token },
      from(address, userAgent),
    )
    t.equal(status, 200, how)
  }
  const assertListed = async (address: string, device: string) => {
    const { body: listed } = await list(url, body.access_token)
    t.match(listed.sessions, [{ address, device }])
  }
  await assertListed('192.0.2.1', 'Firefox on Linux')
  await used('first', '2001:db8::1', safari)
  await assertListed('2001:db8::1', 'Safari on iOS')
  await used('repeated', '192.0.2.3', 'PostmanRuntime/7.39.0')
  await assertListed('192.0.2.3', 'PostmanRuntime')
  await used('repeated', '192.0.2.4', `x/${'y'.repeat(4_000)}`)
  await assertListed('192.0.2.4', 'x')
  await used('repeated', '192.0.2.5', '')
  await assertListed('192.0.2.5', 'Unknown')
})

for (const storesOf of [postgresAndRedis, embedded]) {
  t.test(storesOf === embedded ? 'embedded' : 'two instances on Postgres and Redis', async (t) => {
    const w = await startPair(t, {}, storesOf)
    const { a, b, clock, query } = w

    t.test('whoever asks sees their own live sessions, the youngest first', async (t) => {
      const user = await registerAndLogIn(a.url)
      const stranger = await registerAndLogIn(a.url)
      const start = clock.now()
      clock.advance(60)
      const second = await logIn(b.url, user, { remember: true })
      clock.advance(60)
      const third = await logIn(a.url, user)
      clock.advance(60)
      const fourth = await logIn(a.url, user)
      t.equal((await logOut(b.url, fourth.token)).status, 204)
      await refresh(a.url, user.refreshToken)
      clock.advance(5)
      const { body: refreshed } = await refresh(b.url, user.refreshToken)
      await refresh(b.url, third.refreshToken)
      const at = (seconds: number) => new Date(start + seconds * 1000).toISOString()
      const whole = (seconds: number) => new Date((Math.floor(start / 1000) + seconds) * 1000).toISOString()
      const expected = (current: string) =>
        [
          {
            id: third.sid,
            created_at: at(120),
            last_used_at: at(185),
            expires_at: whole(120 + 7 * day),
            idle_expires_at: whole(185 + day / 2),
          },
          {
            id: second.sid,
            created_at: at(60),
            last_used_at: at(60),
            expires_at: whole(60 + 30 * day),
            idle_expires_at: whole(60 + 30 * day),
          },
          {
            id: user.sid,
            created_at: at(0),
            last_used_at: at(185),
            expires_at: whole(7 * day),
            idle_expires_at: whole(180 + day / 2),
          },
        ].map((session) => ({
          ...session,
          remember: session.id === second.sid,
          address: '127.0.0.1',
          device: 'node',
          current: session.id === current,
        }))
      for (const { token, sid } of [user, second, third, { token: refreshed.access_token, sid: user.sid }]) {
        for (const { url } of [a, b]) {
          const { status, headers, body } = await list(url, token)
          t.strictSame([status, headers.get('cache-control')], [200, 'no-store'])
          t.strictSame(body, { sessions: expected(sid) })
        }
      }
      assertRefused(t, await list(a.url, fourth.token), refusal('token_revoked'), 'who has left')
      assertRefused(
        t,
        await call(a.url, '/sessions'),
        refusal('missing_token'),
        'who does not say who they are',
      )
      const { body } = await list(a.url, stranger.token)
      t.match(body, { sessions: [{ id: stranger.sid, current: true }] })
      t.equal(body.sessions.length, 1, 'nobody sees those of another account')

      clock.advance(12 * 3600)
      const later = await logIn(a.url, user)
      const left = (await list(a.url, later.token)).body.sessions.map(({ id }: { id: string }) => id)
      t.strictSame(left, [later.sid, second.sid], 'those that were idle for too long are gone')
      clock.advance(8 * day)
      const last = await logIn(a.url, user)
      t.match((await list(b.url, last.token)).body.sessions, [{ id: last.sid }, { id: second.sid }])
    })

    t.test('one of my sessions can be ended by its id, and nobody else’s', async (t) => {
      const user = await registerAndLogIn(a.url)
      const other = await logIn(b.url, user)
      const third = await logIn(b.url, user)
      const stranger = await registerAndLogIn(a.url)

      assertRefused(t, await endOne(a.url, user.token, stranger.sid), refusal('not_found'), 'of a stranger')
      await assertGoesOn(t, w, stranger, 'the stranger')
      assertRefused(t, await endOne(a.url, user.token, randomUUID()), refusal('not_found'), 'of nobody')

      assertEnded(t, await endOne(a.url, user.token, other.sid), 'mine')
      await assertOver(t, w, [other], 'ended')
      assertRefused(
        t,
        await endOne(b.url, other.token, user.sid),
        refusal('token_revoked'),
        'by the ended one',
      )
      assertEnded(t, await endOne(b.url, user.token, other.sid), 'again')
      t.equal((await list(b.url, user.token)).body.sessions.length, 2)
      await assertGoesOn(t, w, third, 'the third')

      assertEnded(t, await endOne(b.url, user.token, user.sid), 'the one that asks')
      await assertOver(t, w, [user], 'the one that asked')
      assertRefused(
        t,
        await call(a.url, `/sessions/${third.sid}`, { method: 'DELETE' }),
        refusal('missing_token'),
        'by nobody',
      )
      t.match(
        await query(
          `select reason, count(*) from revocations where subject in ('${other.sid}', '${user.sid}') group by reason`,
        ),
        [{ reason: 'ended', count: /^2$/ }],
        'recorded once each',
      )
    })

    t.test('an id of a session is spelt in one way only, or in capitals', async (t) => {
      const user = await registerAndLogIn(a.url)
      const other = await logIn(a.url, user)
      const spellings = [
        'x',
        'null',
        '%20',
        '%00',
        "'",
        user.username,
        `urn:uuid:${other.sid}`,
        `{${other.sid}}`,
        `%7B${other.sid}%7D`,
        other.sid.replaceAll('-', ''),
        `${other.sid}%20`,
        `${other.sid}%0A`,
        `${other.sid.slice(0, -1)}`,
        `${other.sid.slice(0, -1)}g`,
        `${other.sid},${user.sid}`,
      ]
      for (const spelling of spellings) {
        const reply = await endOne(a.url, user.token, spelling)
        t.match(refusalOf(reply), { status: 400, body: { code: 'invalid_request' } }, spelling)
      }
      await assertGoesOn(t, w, other, 'after all that')
      assertEnded(t, await endOne(a.url, user.token, other.sid.toUpperCase()), 'in capitals')
      await assertOver(t, w, [other], 'in capitals')
      t.match(
        await query(`select count(*) from revocations where subject = '${other.sid}'`),
        [{ count: /^1$/ }],
        'recorded as it stands in its tokens',
      )
    })

    t.test('a session is left by any token that was ever its own', async (t) => {
      const user = await registerAndLogIn(a.url)
      const ways: Record<string, (session: Session, used: string) => Promise<Reply>> = {
        'a live access token': ({ token }) => logOut(a.url, token),
        'a live access token, in a request with an empty body': ({ token }) =>
          post(a.url, '/logout', {}, bearer(token)),
        'its refresh token': ({ refreshToken }) => post(a.url, '/logout', { refresh_token: refreshToken }),
        'its refresh token, with the scope told': ({ refreshToken }) =>
          leaveBy(b.url, 'session', refreshToken),
        'a refresh token of it that was used': (_session, used) => leaveBy(a.url, 'session', used),
      }
      await Promise.all(
        Object.entries(ways).map(async ([name, end]) => {
          const first = await logIn(a.url, user)
          const { body } = await refresh(b.url, first.refreshToken)
          const session = { ...first, token: body.access_token, refreshToken: body.refresh_token }
          assertEnded(t, await end(session, first.refreshToken), name)
          await assertOver(t, w, [session], name)
          assertRefused(
            t,
            await getProtected(b.url, first.token),
            refusal('token_revoked'),
            `${name}: the first`,
          )
          // Whatever of it is presented now, it is over and stays so.
          for (const again of [
            logOut(b.url, session.token),
            leaveBy(a.url, 'session', session.refreshToken),
            leaveBy(b.url, 'session', first.refreshToken),
          ]) {
            assertEnded(t, await again, `${name}, again`)
          }
          t.match(
            await query(
              `select count(*), min(reason) as reason from revocations where subject = '${session.sid}'`,
            ),
            [{ count: /^1$/, reason: 'logout' }],
          )
        }),
      )
      await assertGoesOn(t, w, user, 'the other session')
    })

    t.test('an expired access token and an idle refresh token still end their session', async (t) => {
      const user = await registerAndLogIn(a.url)
      const [one, other] = [await logIn(a.url, user), await logIn(a.url, user, { remember: true })]
      clock.advance(905)
      assertRefused(t, await getProtected(a.url, one.token), refusal('token_expired'), 'expired')
      assertEnded(t, await logOut(b.url, one.token), 'expired')
      assertRefused(t, await refresh(a.url, one.refreshToken), refusal('refresh_token_invalid'), 'ended')
      clock.advance(30 * day)
      assertEnded(t, await leaveBy(a.url, 'session', other.refreshToken), 'beyond the end')
      assertEnded(t, await leaveBy(a.url, 'session', user.refreshToken), 'idle')
      t.match(
        await query(`select count(*) from sessions where user_id = '${user.id}' and ended_at is not null`),
        [{ count: /^3$/ }],
      )
    })

    t.test('to leave takes one token, not two, and one that was given here', async (t) => {
      const user = await registerAndLogIn(a.url)
      const both = refusal(
        'invalid_request',
        'Send one token: the access token, or the refresh token in the body or in the cookie.',
      )
      for (const scope of ['session', 'others', 'all']) {
        // Whatever is in the header is judged first.
        for (const [headers, expected] of [
          [bearer(user.token), both],
          [bearer('x'), refusal('token_invalid')],
          [{ authorization: '' }, refusal('missing_token')],
          [{ authorization: 'Basic eDp5' }, refusal('missing_token')],
        ] as const) {
          const body = { refresh_token: user.refreshToken }
          const reply = await post(a.url, `/logout?scope=${scope}`, body, headers)
          assertRefused(t, reply, expected, `${scope}, ${headers.authorization}`)
        }
        assertRefused(t, await post(a.url, `/logout?scope=${scope}`), refusal('missing_token'), scope)
        assertRefused(t, await post(a.url, `/logout?scope=${scope}`, {}), refusal('missing_token'), scope)
        const unknown = await leaveBy(a.url, scope, 'x'.repeat(43))
        assertRefused(t, unknown, refusal('refresh_token_invalid'), scope)
        for (const [value, name] of [
          [null, 'null'],
          [1, 'a number'],
          [[user.refreshToken], 'a list'],
        ] as const) {
          const reply = await post(a.url, `/logout?scope=${scope}`, { refresh_token: value })
          const expected = refusal('invalid_request', 'body/refresh_token must be string.')
          assertRefused(t, reply, expected, `${scope}, ${name}`)
        }
      }
      await assertGoesOn(t, w, user, 'after all that')
    })

    t.test('the others can be ended from one that lives, by either token; it goes on itself', async (t) => {
      for (const by of ['its access token', 'its refresh token']) {
        const user = await registerAndLogIn(a.url)
        const stranger = await registerAndLogIn(a.url)
        const others = await Promise.all([logIn(a.url, user), logIn(b.url, user, { remember: true })])
        const mine = await logIn(b.url, user)
        const reply = await (by === 'its access token'
          ? leave(a.url, 'others', mine.token)
          : leaveBy(a.url, 'others', mine.refreshToken))
        assertEnded(t, reply, by)
        await assertOver(t, w, [user, ...others], `${by}: the others`)
        await assertGoesOn(t, w, mine, `${by}: mine`)
        await assertGoesOn(t, w, stranger, `${by}: a stranger`)
        const newer = await logIn(a.url, user)
        await assertGoesOn(t, w, newer, `${by}: a new one`)
        t.equal(decodeJwt(newer.token).ver, 1)
        assertEnded(t, await leave(b.url, 'others', newer.token), 'again')
        await assertOver(t, w, [mine], `${by}: again`)
        assertEnded(t, await leave(b.url, 'others', newer.token), 'when there are none')
      }
    })

    t.test('everywhere ends all, mine too, and a login in the same second works', async (t) => {
      for (const by of ['its access token', 'its refresh token']) {
        const user = await registerAndLogIn(a.url)
        const stranger = await registerAndLogIn(a.url)
        const other = await logIn(b.url, user, { remember: true })
        const mine = await logIn(b.url, user)
        const { body: refreshed } = await refresh(a.url, other.refreshToken)
        const reply = await (by === 'its access token'
          ? leave(a.url, 'all', mine.token)
          : leaveBy(a.url, 'all', mine.refreshToken))
        assertEnded(t, reply, by)
        await assertOver(t, w, [user, mine, other], by)
        const second = { ...other, token: refreshed.access_token, refreshToken: refreshed.refresh_token }
        await assertOver(t, w, [second], `${by}: what was refreshed`)
        const newer = await logIn(b.url, user)
        t.strictSame(
          [decodeJwt(newer.token).iat, decodeJwt(newer.token).ver],
          [decodeJwt(mine.token).iat, 2],
          'in the same second, of the next generation',
        )
        await assertGoesOn(t, w, newer, `${by}: the login after`)
        await assertGoesOn(t, w, stranger, `${by}: a stranger`)
        assertRefused(t, await leave(a.url, 'all', mine.token), refusal('token_revoked'), 'by the old one')
        assertRefused(
          t,
          await leaveBy(a.url, 'all', mine.refreshToken),
          refusal('refresh_token_invalid'),
          'old',
        )
        await assertGoesOn(t, w, { ...newer, ...(await logIn(a.url, user)) }, `${by}: nothing of that counts`)
        t.match(
          await query(`select scope, subject, reason from revocations where subject like '${user.id}%'`),
          [{ scope: 'generation', subject: `${user.id}:1`, reason: 'logout_all' }],
        )
        t.match(
          await query(`select count(*) from sessions where user_id = '${user.id}' and ended_at is not null`),
          [{ count: /^3$/ }],
        )
      }
    })

    t.test('others and everywhere take a live token: no used, dead, expired or revoked one', async (t) => {
      for (const scope of ['others', 'all']) {
        const user = await registerAndLogIn(a.url)
        const [used, dead, expired] = await Promise.all([
          logIn(a.url, user),
          logIn(a.url, user),
          logIn(a.url, user),
        ])
        const { body } = await refresh(b.url, used.refreshToken)
        assertEnded(t, await logOut(a.url, dead.token), 'dead')
        const unable = refusal('refresh_token_invalid')
        assertRefused(t, await leaveBy(b.url, scope, used.refreshToken), unable, `${scope}, used`)
        assertRefused(t, await leaveBy(b.url, scope, dead.refreshToken), unable, `${scope}, dead`)
        assertRefused(t, await leave(b.url, scope, dead.token), refusal('token_revoked'), `${scope}, revoked`)
        clock.advance(905)
        assertRefused(
          t,
          await leave(b.url, scope, expired.token),
          refusal('token_expired'),
          `${scope}, expired`,
        )
        const refreshed = await refresh(b.url, body.refresh_token)
        t.equal(refreshed.status, 200, 'a used one is not called stolen for that')
        for (const { refreshToken } of [user, expired]) {
          t.equal((await refresh(a.url, refreshToken)).status, 200, 'nothing has ended')
        }
        const live = scope === 'all' ? refreshed.body.refresh_token : (await logIn(a.url, user)).refreshToken
        assertEnded(t, await leaveBy(b.url, scope, live), 'a live one may')
      }
    })
  })

  t.test(
    `three sessions for each account, ${storesOf === embedded ? 'embedded' : 'on two instances'}`,
    async (t) => {
      const w = await startPair(t, { SESSIONS_PER_ACCOUNT: '3' }, storesOf)
      const { a, b, clock, query } = w

      t.test('the oldest one ends for the fourth, with its live tokens', async (t) => {
        const user = await registerAndLogIn(a.url)
        const stranger = await registerAndLogIn(a.url)
        const held: Session[] = [user]
        for (let i = 1; i < 6; i++) {
          clock.advance(10)
          // The oldest of them is the one that was used last: what counts is when it started.
          const oldest = held[0] as Session
          const { body } = await refresh(b.url, oldest.refreshToken)
          held[0] = { ...oldest, token: body.access_token, refreshToken: body.refresh_token }
          held.push(await logIn(i % 2 ? a.url : b.url, user))
          if (held.length > 3) {
            const ended = held.shift() as Session
            await assertOver(t, w, [ended], `${i}: the oldest`)
            assertRefused(
              t,
              await getProtected(a.url, oldest.token),
              refusal('token_revoked'),
              'its token of before',
            )
          }
          for (const { token } of held) t.equal((await getProtected(b.url, token)).status, 200)
          const listed = await list(a.url, (held[0] as Session).token)
          t.strictSame(
            listed.body.sessions.map(({ id }: { id: string }) => id),
            held.map(({ sid }) => sid).reverse(),
          )
        }
        await assertGoesOn(t, w, stranger, 'somebody else')
        t.match(await query(`select reason, count(*) from revocations group by reason`), [
          { reason: 'too_many_sessions', count: /^3$/ },
        ])
      })

      t.test('those that have ended do not count', async (t) => {
        const user = await registerAndLogIn(a.url)
        const stays = await logIn(a.url, user, { remember: true })
        for (let i = 0; i < 4; i++) {
          clock.advance(10)
          assertEnded(t, await logOut(a.url, (await logIn(b.url, user)).token), 'left')
        }
        await assertGoesOn(t, w, user, 'the first')
        clock.advance(day)
        const more = [await logIn(a.url, user), await logIn(b.url, user)]
        for (const { token } of more) t.equal((await getProtected(a.url, token)).status, 200)
        t.equal((await refresh(a.url, stays.refreshToken)).status, 200, 'the idle first one has made room')
      })

      t.test('logins at once leave as many as there may be', async (t) => {
        const user = await registerAndLogIn(a.url)
        const sessions = await Promise.all(
          Array.from({ length: 9 }, (_, i) => logIn(i % 2 ? a.url : b.url, user)),
        )
        const statuses = await Promise.all(
          [user, ...sessions].map(async ({ token }) => (await getProtected(a.url, token)).status),
        )
        t.equal(statuses.filter((status) => status === 200).length, 3)
      })
    },
  )
}

t.test('one session for each account: of two logins at once the later one stays', async (t) => {
  const w = await startPair(t, { SESSIONS_PER_ACCOUNT: '1' })
  const { a, b, stores } = w
  const url = stores.env.DATABASE_URL as string
  const user = await registerAndLogIn(a.url)
  const crowd = await registerAndLogIn(a.url)
  const { username, password } = user
  const logInAt = ({ url }: Instance) => post(url, '/login', { username, password })
  const [first, second] = await withClient(url, async (owner) => {
    return await withClient(url, async (jam) => {
      await owner.query(`begin; select from users where id = '${user.id}' for update`)
      await jam.query(`begin; select from sessions where id = '${crowd.sid}' for update`)
      const earlier = logInAt(a)
      await waitForLock(t, w, 1)
      const later = logInAt(b)
      await waitForLock(t, w, 2)
      // All connections of the first instance are taken, and more wait for one: what it does next, it does later.
      const refreshes = Array.from({ length: 20 }, () => refresh(a.url, crowd.refreshToken))
      await waitForLock(t, w, 11)
      await owner.query('commit')
      const reply = await later
      await jam.query('commit')
      for (const { status } of await Promise.all(refreshes)) t.equal(status, 200)
      return [await earlier, reply]
    })
  })
  t.strictSame([first.status, second.status], [200, 200])
  assertRefused(
    t,
    await getProtected(b.url, first.body.access_token),
    refusal('token_revoked'),
    'the earlier',
  )
  for (const { url } of [a, b]) {
    t.equal((await getProtected(url, second.body.access_token)).status, 200, 'the later')
  }
})

t.test('sessions from before they had an order are in that of their start', async (t) => {
  const w = await startPair(t, { SESSIONS_PER_ACCOUNT: '3' })
  const { a, clock, query, stores } = w
  const user = await registerAndLogIn(a.url)
  const held: Session[] = [user]
  for (let i = 1; i < 3; i++) {
    clock.advance(10)
    held.push(await logIn(a.url, user))
  }
  const migration = await readFile(new URL('../migrations/0002_session_order.sql', import.meta.url), 'utf8')
  await withClient(stores.env.DATABASE_URL as string, async (client) => {
    // The oldest one lies behind the others, as it does once it has been refreshed.
    await client.query('alter table sessions drop column ordinal')
    await client.query('update sessions set last_used_at = now() where id = $1', [user.sid])
    for (const statement of migration.split('--> statement-breakpoint')) await client.query(statement)
  })
  clock.advance(10)
  await logIn(a.url, user)
  await assertOver(t, w, [user], 'the oldest')
  t.match(await query('select count(*) from sessions where ended_at is null'), [{ count: '3' }])
})

t.test('a login that ends the surplus and a logout of the others do not wait for each other', async (t) => {
  const stores = await postgresAndRedis(t)
  const url = stores.env.DATABASE_URL as string
  // As it is in a large table: each of them finds the sessions in an order of its own.
  await withClient(url, async (client) => {
    const { rows } = await client.query<{ name: string }>('select current_database() as name')
    for (const off of ['enable_seqscan', 'enable_bitmapscan']) {
      await client.query(`alter database ${rows[0]?.name} set ${off} = off`)
    }
  })
  const w = await startPair(t, {}, async () => stores)
  const { a, b, clock } = w
  const strict = await startInstance(t, { stores, clock, env: { SESSIONS_PER_ACCOUNT: '1' } })
  const user = await registerAndLogIn(a.url)
  // The one that comes first by its id was not the first to start.
  const others: Session[] = []
  while (others.length < 2 || (others[0] as Session).sid < (others.at(-1) as Session).sid) {
    others.push(await logIn(a.url, user))
  }
  const [least] = others.map(({ sid }) => sid).sort()
  const { username, password } = user
  const [login, left] = await withClient(url, async (client) => {
    await client.query(`begin; select from sessions where id = '${least}' for update`)
    const loggingIn = post(strict.url, '/login', { username, password })
    await waitForLock(t, w, 1)
    const leaving = leave(b.url, 'others', user.token)
    await waitForLock(t, w, 2)
    await client.query('commit')
    return [await loggingIn, await leaving]
  })
  t.strictSame([login.status, left.status], [200, 204])
  await assertOver(t, w, others, 'the others')
})

t.test('what happens meanwhile', async (t) => {
  const w = await startPair(t)
  const { a, b, query } = w

  t.test('a login that was first is one of the others', async (t) => {
    const user = await registerAndLogIn(a.url)
    const sid = randomUUID()
    const [reply] = await duringChange(
      t,
      w,
      [
        `select from users where id = '${user.id}' for update`,
        `insert into sessions overriding user value select (jsonb_populate_record(s, '{"id": "${sid}"}')).* from sessions s where id = '${user.sid}'`,
      ],
      () => [leave(b.url, 'others', user.token)],
    )
    assertEnded(t, reply as Reply, 'others')
    t.match(await query(`select ended_at is not null as ended from sessions where id = '${sid}'`), [
      { ended: true },
    ])
    t.match(await query(`select reason from revocations where subject = '${sid}'`), [
      { reason: 'logout_others' },
    ])
    await assertGoesOn(t, w, user, 'mine')
  })

  t.test(
    'everywhere, asked for twice at once: once for all, and a login between is left alone',
    async (t) => {
      const user = await registerAndLogIn(a.url)
      const others = await Promise.all([logIn(a.url, user), logIn(b.url, user)])
      const replies = await Promise.all([
        leave(a.url, 'all', user.token),
        ...others.map(({ token }, i) => leave(i ? a.url : b.url, 'all', token)),
      ])
      for (const reply of replies) {
        if (reply.status === 204) assertEnded(t, reply, 'all')
        else assertRefused(t, reply, refusal('token_revoked'), 'somebody else has')
      }
      t.ok(replies.some(({ status }) => status === 204))
      await assertOver(t, w, [user, ...others], 'all')
      t.match(
        await query(`select generation from users where id = '${user.id}'`),
        [{ generation: 2 }],
        'one step',
      )
      await assertGoesOn(t, w, await logIn(b.url, user), 'after it')

      const late = await logIn(a.url, user)
      const [reply] = await duringChange(
        t,
        w,
        [`update users set generation = generation + 1 where id = '${user.id}'`],
        () => [leave(b.url, 'all', late.token)],
      )
      assertRefused(t, reply as Reply, refusal('token_revoked'), 'somebody else was faster')
      t.match(await query(`select generation from users where id = '${user.id}'`), [{ generation: 3 }])
    },
  )

  t.test(
    'everywhere, while a login that has seen it coming is faster: it is acknowledged all the same',
    async (t) => {
      const user = await registerAndLogIn(a.url)
      const origin = { requestId: 'test', address: '127.0.0.1', network: '127.0.0.1', userAgent: '' }
      await withClient(w.stores.env.DATABASE_URL as string, async (client) => {
        await client.query('begin')
        await client.query(`select from users where id = '${user.id}' for update`)
        const ending = a.app.sessions.endForgottenGeneration(user.id, 1, origin)
        await waitForLock(t, w, 1)
        // The guard of its route let it through before.
        const leaving = b.app.sessions.endAll({ sub: user.id, sid: user.sid, ver: 1, auth_time: 1 }, origin)
        await waitForLock(t, w, 2)
        await client.query('commit')
        await t.resolves(Promise.all([ending, leaving]))
      })
      await assertOver(t, w, [user], 'all')
      await assertGoesOn(t, w, await logIn(b.url, user), 'after it')
    },
  )

  t.test('everywhere, with refreshes and logins under way: nothing of before is alive', async (t) => {
    const user = await registerAndLogIn(a.url)
    const sessions = await Promise.all(
      Array.from({ length: 8 }, (_, i) => logIn(i % 2 ? a.url : b.url, user)),
    )
    const [left, ...replies] = await Promise.all([
      leave(a.url, 'all', user.token),
      ...sessions.map(({ refreshToken }, i) => refresh(i % 2 ? a.url : b.url, refreshToken)),
      ...sessions.map((_, i) =>
        post(i % 2 ? a.url : b.url, '/login', { username: user.username, password: user.password }),
      ),
    ])
    t.equal(left.status, 204)
    await assertOver(t, w, [user, ...sessions], 'of before')
    await Promise.all(
      replies.map(async (reply, i) => {
        if (reply.status === 200) {
          const { ver } = decodeJwt(reply.body.access_token)
          for (const { url } of [a, b]) {
            const held = await getProtected(url, reply.body.access_token)
            if (ver === 1) assertRefused(t, held, refusal('token_revoked'), 'of the old generation')
            else t.equal(held.status, 200, 'of the new one')
          }
          const after = await refresh(b.url, reply.body.refresh_token)
          if (ver === 1) assertRefused(t, after, refusal('refresh_token_invalid'), 'of the old generation')
          else t.equal(after.status, 200, 'of the new one')
        } else {
          t.ok(i < sessions.length, 'every login works')
          assertRefused(t, reply, refusal('refresh_token_invalid'), 'a refresh')
        }
      }),
    )
  })
})

t.test('whatever many do at once to few accounts, nobody waits for another who waits for them', async (t) => {
  const w = await startPair(t, { SESSIONS_PER_ACCOUNT: '4' })
  const { a, b, stores } = w
  const users = await Promise.all([1, 2].map(() => registerAndLogIn(a.url)))
  const urls = [a.url, b.url]
  const pick = <T>(items: readonly T[]) => items[Math.floor(Math.random() * items.length)] as T
  const statuses: Record<string, number> = {}
  const acts: Record<string, (session: Session, sid: string) => Promise<Reply>> = {
    refresh: ({ refreshToken }) => refresh(pick(urls), refreshToken),
    'refresh twice': async ({ refreshToken }) =>
      (await Promise.all(urls.map((url) => refresh(url, refreshToken))))[0] as Reply,
    logout: ({ token }) => logOut(pick(urls), token),
    'logout by refresh token': ({ refreshToken }) => leaveBy(pick(urls), 'session', refreshToken),
    others: ({ token }) => leave(pick(urls), 'others', token),
    all: ({ token }) => leave(pick(urls), 'all', token),
    list: ({ token }) => list(pick(urls), token),
    end: ({ token }, sid) => endOne(pick(urls), token, sid),
  }
  const until = Date.now() + 2_500
  const roleChanges = withClient(stores.env.DATABASE_URL as string, async (client) => {
    while (Date.now() < until) {
      const { id } = pick(users)
      await client.query('begin')
      await client.query(`update users set generation = generation + 1, roles = '{admin}' where id = '${id}'`)
      await client.query(
        `update sessions set generation = (select generation from users where id = '${id}')
          where user_id = '${id}' and ended_at is null`,
      )
      await client.query('commit')
      await delay(100)
    }
  })
  await Promise.all(
    Array.from({ length: 12 }, async (_, i) => {
      const user = users[i % users.length] as LoggedIn
      let sid = user.sid
      while (Date.now() < until) {
        const login = await post(pick(urls), '/login', { username: user.username, password: user.password })
        const name = pick(Object.keys(acts))
        statuses[`login ${login.status}`] = (statuses[`login ${login.status}`] ?? 0) + 1
        if (login.status !== 200) continue
        const { access_token: token, refresh_token: refreshToken, session_id } = login.body
        const { status } = await (acts[name] as (typeof acts)[string])(
          { ...user, token, refreshToken, sid },
          sid,
        )
        statuses[`${name} ${status}`] = (statuses[`${name} ${status}`] ?? 0) + 1
        sid = session_id
      }
    }),
  )
  await roleChanges
  t.comment(JSON.stringify(statuses))
  t.strictSame(
    Object.keys(statuses).filter((key) => !/ (200|204|401|404)$/.test(key)),
    [],
    'no failure of the service',
  )
  for (const { log } of [a, b])
    t.notOk(
      log.some((line) => /40P01|deadlock/.test(line)),
      'no deadlock',
    )
})

/** Waits until so many statements wait for locks. On a connection of its own: those of an instance may be taken. */
async function waitForLock(t: Test, { stores }: Pair, count: number): Promise<void> {
  const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
  await withClient(stores.env.DATABASE_URL as string, (client) =>
    eventually(t, async () => (await client.query(waiting)).rowCount === count, 1_500),
  )
}

/** Asks while a transaction keeps what it has changed to itself, and ends that once every request waits for it. */
async function duringChange(
  t: Test,
  w: Pair,
  changes: string[],
  ask: () => Promise<Reply>[],
): Promise<Reply[]> {
  return await withClient(w.stores.env.DATABASE_URL as string, async (client) => {
    await client.query('begin')
    for (const change of changes) await client.query(change)
    const asked = ask()
    await waitForLock(t, w, asked.length)
    await client.query('commit')
    return await Promise.all(asked)
  })
}

t.test('a session that ended a day ago is purged, with every refresh token that it had', async (t) => {
  const stores = await postgresAndRedis(t)
  const { app, url } = await startInstance(t, { stores })
  const [gone, kept] = [await registerAndLogIn(url), await registerAndLogIn(url)]
  await withClient(stores.env.DATABASE_URL as string, async (client) => {
    const expire = 'update sessions set expires_at = now() - $2::interval where id = $1'
    await client.query(expire, [gone.sid, '25 hours'])
    await client.query(expire, [kept.sid, '23 hours'])
    t.equal(await purge(app.database.db, deleteExpiredRefreshTokens), 1)
    t.equal(await purge(app.database.db, deleteExpiredSessions), 1)
    t.strictSame((await client.query('select id from sessions')).rows, [{ id: kept.sid }])
    t.strictSame((await client.query('select session_id from refresh_tokens')).rows, [
      { session_id: kept.sid },
    ])
  })
})
