/** Guessing: what is counted by account in Postgres holds everywhere, and locks no owner out. */
import { randomBytes, randomUUID } from 'node:crypto'
import { type TOTP, URI } from 'otpauth'
import t, { type Test } from 'tap'
import {
  deleteExpiredChallenges,
  deleteExpiredMailTokens,
  deleteOldGuesses,
  deleteOldNetworks,
} from '../src/accounts/expired.ts'
import { createGuesses } from '../src/accounts/guesses.ts'
import { purge } from '../src/db/purge.ts'
import type { Environment } from '../src/settings.ts'
import { randomUser, type User, withClient } from './fixtures/app.ts'
import { bearer, call, post, type Reply, refusal, refusalOf, registerAndLogIn } from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { type Pair, startPair } from './fixtures/pair.ts'
import { endGuessing, giveFactor, giveMailToken } from './fixtures/second-factor.ts'

interface World extends Pair {
  databaseUrl: string
}

/** Without Redis: what is counted by account is not counted there. */
async function world(t: Test, env: Environment = {}): Promise<World> {
  const pair = await startPair(t, {
    REDIS_URL: undefined,
    TRUST_PROXY: '127.0.0.1',
    ACCOUNT_RATE_MAX: '5',
    ACCOUNT_RATE_WINDOW_SECONDS: '900',
    ...env,
  })
  return { ...pair, databaseUrl: pair.stores.env.DATABASE_URL as string }
}

const from = (address: string) => ({ 'x-forwarded-for': address })
const somewhere = () => `203.0.${randomBytes(1)[0]}.${randomBytes(1)[0]}`
const home = '198.51.100.7'

const enter = (url: string, { username, password }: User, address: string) =>
  post(url, '/login', { username, password }, from(address))
const guess = (url: string, { username }: User, address: string) =>
  enter(url, { username, password: `guess ${randomUUID()}` }, address)

/** Somebody who has logged in from home. */
async function owner({ a }: World): Promise<User & { token: string }> {
  const user = randomUser()
  t.equal((await post(a.url, '/register', user, from(home))).status, 201)
  const { status, body } = await enter(a.url, user, home)
  t.equal(status, 200)
  return { ...user, token: body.access_token }
}

async function exhaust(t: Test, { a, b }: World, user: User, count = 5): Promise<void> {
  for (let i = 0; i < count; i++)
    t.strictSame(
      refusalOf(await guess([a, b][i % 2]?.url as string, user, somewhere())),
      refusal('invalid_credentials'),
    )
}

t.test(
  'strangers have so many tries at an account, from everywhere together and on all instances',
  async (t) => {
    const w = await world(t)
    const { a, b, clock } = w
    const user = await owner(w)
    await exhaust(t, w, user)
    for (const { url } of [a, b]) {
      const right = await enter(url, user, somewhere())
      t.strictSame(refusalOf(right), refusal('rate_limited', undefined, '900'), 'the right password too')
    }
    t.equal((await enter(b.url, user, home)).status, 200, 'the owner is let in at home')
    t.equal((await enter(a.url, await owner(w), somewhere())).status, 200, 'and so is everybody else')
    clock.advance(899)
    t.equal((await guess(a.url, user, somewhere())).headers.get('retry-after'), '1')
    clock.advance(1)
    t.equal((await enter(a.url, user, somewhere())).status, 200, 'when the window is over')
  },
)

t.test('a burst gains nothing', async (t) => {
  const w = await world(t)
  const user = await owner(w)
  const replies = await Promise.all(
    Array.from({ length: 40 }, (_, i) => guess([w.a, w.b][i % 2]?.url as string, user, somewhere())),
  )
  const judged = replies.filter(({ status }) => status === 401)
  t.equal(judged.length, 5)
  t.ok(replies.every(({ status }) => status === 401 || status === 429))
})

t.test('no spelling of a name, no header and no address of one network is another try', async (t) => {
  const w = await world(t)
  const { a, b } = w
  const user = { ...(await owner(w)) }
  const spelled = [user.username.toUpperCase(), user.username.replace('user', 'ｕｓｅｒ'), user.username]
  for (const [i, username] of [...spelled, ...spelled.slice(0, 2)].entries())
    t.equal((await guess([a, b][i % 2]?.url as string, { ...user, username }, somewhere())).status, 401)
  t.equal((await guess(a.url, user, somewhere())).status, 429)

  // From home's own /64 it is no stranger, from the next one it is.
  const other = randomUser()
  await post(a.url, '/register', other)
  t.equal((await enter(a.url, other, '2001:db8:1:2::1')).status, 200)
  await exhaust(t, w, other)
  t.equal((await enter(b.url, other, '2001:db8:1:2:ffff::9')).status, 200)
  t.equal((await enter(b.url, other, '2001:db8:1:3::1')).status, 429)
  t.equal(
    (await enter(b.url, other, '2001:db8:1:3::1, 2001:db8:1:2::1, 203.0.113.9')).status,
    429,
    'what a client adds to the header',
  )
  const claims = {
    forwarded: `for=${home}`,
    'x-real-ip': home,
    'x-client-ip': home,
    'x-forwarded-for': somewhere(),
  }
  t.equal(
    (await post(a.url, '/login', { username: user.username, password: user.password }, claims)).status,
    429,
  )
})

t.test('a name that nobody has is answered alike, from the first guess to the last', async (t) => {
  const w = await world(t)
  const disabled = await owner(w)
  await w.query(`update users set status = 'disabled' where username = $1`, [disabled.username])
  const names = {
    known: await owner(w),
    nobody: randomUser(),
    disabled,
    impossible: { ...randomUser(), username: 'no body' },
  }
  const told: Record<string, unknown[]> = {}
  for (const [name, user] of Object.entries(names)) {
    const replies: unknown[] = []
    for (let i = 0; i < 120; i++) {
      if (i % 5 === 0) w.clock.advance(900)
      replies.push(refusalOf(await guess(w.a.url, user, somewhere())))
    }
    told[name] = replies
  }
  t.strictSame(told.nobody, told.known)
  t.strictSame(told.disabled, told.known)
  t.strictSame(told.impossible, told.known)
  t.strictSame(told.known?.[99], refusal('invalid_credentials'))
  t.strictSame(told.known?.[100], refusal('password_reset_required'))
})

t.test('after a hundred wrong passwords in a row none is looked at, but for those from home', async (t) => {
  const w = await world(t, { ACCOUNT_RATE_MAX: '0' })
  const { a, b, clock, query } = w
  const user = await owner(w)
  const ended = refusal('password_reset_required')
  await exhaust(t, w, user, 60)
  t.equal((await enter(a.url, user, somewhere())).status, 200)
  await exhaust(t, w, user, 99)
  t.equal((await enter(b.url, user, somewhere())).status, 200, 'a right one begins the row anew')
  await exhaust(t, w, user, 100)
  for (const { url } of [a, b]) t.strictSame(refusalOf(await enter(url, user, somewhere())), ended)
  clock.advance(400 * 86_400)
  t.strictSame(refusalOf(await enter(a.url, user, somewhere())), ended, 'a year later')
  await query('update familiar_networks set seen_at = seen_at + $1::interval', ['400 days'])
  t.equal((await enter(a.url, user, home)).status, 200, 'strangers have not locked the owner out')
  t.strictSame(refusalOf(await enter(a.url, user, somewhere())), ended, 'nor has that let strangers in')
  t.equal(
    [...a.log, ...b.log].filter((line) => /"event":"guessing.ended","kind":"strange","sub":/.test(line))
      .length,
    1,
    'it is told once',
  )

  // Somebody at home guesses too.
  for (let i = 0; i < 100; i++) await guess(a.url, user, home)
  t.strictSame(refusalOf(await enter(b.url, user, home)), ended)
  const admin = await owner(w)
  await query(`update users set roles = '{admin}' where username = $1`, [admin.username])
  const { body } = await enter(a.url, admin, home)
  const [{ id } = {}] = await query('select id from users where username = $1', [user.username])
  const opened = await call(a.url, `/admin/users/${id}/status`, {
    method: 'PUT',
    headers: { ...bearer(body.access_token), 'content-type': 'application/json' },
    body: '{"status":"active"}',
  })
  t.equal(opened.status, 200)
  t.equal((await enter(b.url, user, somewhere())).status, 200, 'an admin lets them in again')
  t.match(a.log.join(''), `"event":"guessing.forgiven","sub":"${id}","by":`)
})

t.test('where nobody has logged in from for a month, a guess is a stranger’s', async (t) => {
  const w = await world(t)
  const user = await owner(w)
  await exhaust(t, w, user)
  w.clock.advance(30 * 86_400 - 1)
  await exhaust(t, w, user)
  t.equal((await enter(w.a.url, user, home)).status, 200)
  w.clock.advance(30 * 86_400)
  await exhaust(t, w, user)
  t.equal((await enter(w.a.url, user, home)).status, 429)
})

t.test('codes and the password of a session are counted as well', async (t) => {
  const w = await world(t)
  const { a, b, clock } = w
  const user = await owner(w)
  const held = bearer(user.token)
  const { body } = await post(a.url, '/mfa/totp', undefined, held)
  const app = URI.parse(body.otpauth_uri) as TOTP
  const code = () => app.generate({ timestamp: clock.now() })
  t.equal((await post(a.url, '/mfa/totp/verify', { code: code() }, held)).status, 200)
  const ask = async (code: string): Promise<Reply> => {
    clock.advance(30)
    const { body } = await enter(a.url, user, home)
    return await post(b.url, '/login/mfa', { mfa_token: body.mfa_token, code }, from(somewhere()))
  }
  for (let i = 0; i < 5; i++) t.strictSame(refusalOf(await ask('000000')), refusal('invalid_code'))
  t.equal(
    (await ask(code())).body.code,
    'rate_limited',
    'the right one too, for every login and address together',
  )
  const proof = { password: user.password, code: code() }
  t.equal((await post(a.url, '/reauthenticate', proof, held)).body.code, 'rate_limited', 'and at every door')
  const { mfa_token } = (await enter(a.url, user, home)).body
  const atHome = await post(b.url, '/login/mfa', { mfa_token, code: code() }, from(home))
  t.equal(atHome.status, 200, 'but not for their owner at home, whoever else knows the password')
  clock.advance(900)
  t.equal((await ask(code())).status, 200)
  await endGuessing(w.databaseUrl, user.username)
  await w.query(`delete from guesses where kind not like '%code'`)
  t.strictSame(
    refusalOf(await ask(code())),
    refusal(
      'password_reset_required',
      'This account was sent too many wrong codes: show a recovery code, or ask an admin.',
    ),
    'another password would be no remedy',
  )

  const other = await owner(w)
  const wrong = { password: 'not my password at all' }
  for (let i = 0; i < 100; i++)
    t.equal(
      (await post([a, b][i % 2]?.url as string, '/reauthenticate', wrong, bearer(other.token))).status,
      403,
    )
  const right = await post(a.url, '/reauthenticate', { password: other.password }, bearer(other.token))
  t.strictSame(refusalOf(right), refusal('password_reset_required'))
})

t.test('a name that was guessed at before anybody had it is as good as any', async (t) => {
  const w = await world(t, { ACCOUNT_RATE_MAX: '0' })
  const user = randomUser()
  await exhaust(t, w, user, 100)
  t.strictSame(refusalOf(await enter(w.a.url, user, home)), refusal('password_reset_required'))
  t.equal((await post(w.a.url, '/register', user, from(home))).status, 201)
  t.equal((await enter(w.b.url, user, home)).status, 200)
  t.equal((await enter(w.b.url, user, somewhere())).status, 200)
})

t.test('who registers is at home where they did', async (t) => {
  const w = await world(t)
  const user = randomUser()
  t.equal((await post(w.a.url, '/register', user, from(home))).status, 201)
  await exhaust(t, w, user)
  t.equal((await enter(w.b.url, user, home)).status, 200)
})

t.test('who resets a password is at home where they did', async (t) => {
  const w = await world(t)
  const user = await owner(w)
  const [{ id } = {}] = await w.query('select id from users where username = $1', [user.username])
  const token = await giveMailToken(w.databaseUrl, id as string, 'reset')
  const password = 'three blind mice went sailing'
  const there = from('198.51.100.99')
  t.equal((await post(w.a.url, '/password/reset', { token, new_password: password }, there)).status, 204)
  await exhaust(t, w, user)
  t.equal((await enter(w.b.url, { ...user, password }, '198.51.100.99')).status, 200)
})

t.test('whoever holds a token, or has known the password, locks nobody out at home', async (t) => {
  const w = await world(t, { ACCOUNT_RATE_MAX: '0' })
  const { a, b } = w
  const user = await owner(w)
  const held = { ...bearer(user.token), ...from(somewhere()) }
  for (let i = 0; i < 100; i++)
    await post(a.url, '/reauthenticate', { password: 'not my password at all' }, held)
  t.equal((await post(a.url, '/reauthenticate', { password: user.password }, held)).status, 403)
  const again = await enter(b.url, user, home)
  t.equal(again.status, 200)

  const theirs = '203.0.113.66'
  t.equal((await enter(a.url, user, theirs)).status, 200, 'a thief, with the password')
  const changed = await call(a.url, '/me/password', {
    method: 'PUT',
    headers: { ...bearer(again.body.access_token), ...from(home), 'content-type': 'application/json' },
    body: JSON.stringify({ current_password: user.password, new_password: 'three blind mice went sailing' }),
  })
  t.equal(changed.body.code, 'password_reset_required', 'a session proves nothing by guesses any more')
  const [{ id } = {}] = await w.query('select id from users where username = $1', [user.username])
  const token = await giveMailToken(w.databaseUrl, id as string, 'reset')
  const password = 'three blind mice went sailing'
  t.equal((await post(a.url, '/password/reset', { token, new_password: password })).status, 204)
  t.equal((await enter(a.url, { ...user, password }, home)).status, 200)
  for (let i = 0; i < 100; i++) await guess(a.url, user, theirs)
  t.equal((await enter(b.url, { ...user, password }, home)).status, 200, 'where they were is strange again')
})

t.test('a new password makes strangers of all networks but the one that it came from', async (t) => {
  const w = await world(t)
  const { a, b } = w
  const user = await owner(w)
  const theirs = '203.0.113.66'
  t.equal((await enter(a.url, user, theirs)).status, 200)
  const password = 'three blind mice went sailing'
  const changed = await call(a.url, '/me/password', {
    method: 'PUT',
    headers: { ...bearer(user.token), ...from(home), 'content-type': 'application/json' },
    body: JSON.stringify({ current_password: user.password, new_password: password }),
  })
  t.equal(changed.status, 200)
  for (let i = 0; i < 5; i++) await guess(b.url, user, theirs)
  t.equal((await enter(a.url, { ...user, password }, theirs)).status, 429)
  t.equal((await enter(a.url, { ...user, password }, home)).status, 200)
})

t.test('whoever reads the mail tries no more codes, and a recovery code lets its owner in', async (t) => {
  const w = await world(t)
  const { a, b, clock } = w
  const user = await owner(w)
  const held = bearer(user.token)
  const { body } = await post(a.url, '/mfa/totp', undefined, held)
  const app = URI.parse(body.otpauth_uri) as TOTP
  const code = app.generate({ timestamp: clock.now() })
  const { recovery_codes } = (await post(a.url, '/mfa/totp/verify', { code }, held)).body
  const ask = async (password: string, code: string) => {
    const { mfa_token } = (await enter(a.url, { ...user, password }, home)).body
    return await post(b.url, '/login/mfa', { mfa_token, code }, from(somewhere()))
  }
  for (let i = 0; i < 5; i++) t.equal((await ask(user.password, '000000')).status, 403)
  const [{ id } = {}] = await w.query('select id from users where username = $1', [user.username])
  const token = await giveMailToken(w.databaseUrl, id as string, 'reset')
  const password = 'three blind mice went sailing'
  t.equal((await post(a.url, '/password/reset', { token, new_password: password })).status, 204)
  t.equal((await ask(password, '000000')).body.code, 'rate_limited')
  t.equal((await ask(password, recovery_codes[0])).status, 200, 'which nobody can guess')
})

/** Whether a statement waits for a lock, in this database. */
const isWaiting = async ({ query }: World): Promise<boolean> =>
  (
    await query(
      `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
    )
  ).length > 0

for (const where of ['anywhere', 'home'] as const)
  t.test(
    `a burst of a hundred is the end, and what comes with it in time is told nothing, from ${where}`,
    async (t) => {
      const w = await world(t, { ACCOUNT_RATE_MAX: '0', LOGIN_RATE_MAX: '0' })
      const user = await owner(w)
      const place = () => (where === 'home' ? home : somewhere())
      // So that what comes next is not the first one there.
      await guess(w.a.url, user, place())
      await w.query('update guesses set in_a_row = 0')
      await withClient(w.databaseUrl, async (client) => {
        // It has been let through to be judged, and waits to find the account.
        await client.query('begin')
        await client.query('lock table totp_factors in access exclusive mode')
        const right = enter(w.a.url, user, place())
        await eventually(t, () => isWaiting(w))
        await client.query('update guesses set in_a_row = 100')
        await client.query('commit')
        t.strictSame(refusalOf(await right), refusal('password_reset_required'))
      })
    },
  )

t.test('a right password begins the row anew, also where it is not enough', async (t) => {
  const w = await world(t, { ACCOUNT_RATE_MAX: '0' })
  const user = await owner(w)
  await exhaust(t, w, user, 60)
  const [{ id } = {}] = await w.query('select id from users where username = $1', [user.username])
  await giveFactor(w.a.app, w.databaseUrl, id as string)
  t.equal((await enter(w.a.url, user, somewhere())).body.code, 'mfa_required')
  await exhaust(t, w, user, 60)
})

t.test('what is counted goes when it is old, but for what ends an account', async (t) => {
  const { a, query } = await world(t)
  const { db } = a.app.database
  const { id } = await registerAndLogIn(a.url)
  await query('delete from guesses')
  await query('delete from familiar_networks')
  await query(
    `insert into guesses (account, kind, recent, window_ends_at, in_a_row, last_at)
    select sha256(n::text::bytea), 'strange', 1, now(), in_a_row, now() - age::interval
    from (values (1, 99, '31 days'), (2, 100, '31 days'), (3, 99, '29 days')) row (n, in_a_row, age)`,
  )
  await query(
    `insert into familiar_networks (user_id, network, seen_at)
    select $1, age, now() - age::interval from unnest('{31 days,29 days}'::text[]) age`,
    [id],
  )
  await query(
    `insert into mfa_challenges (hash, user_id, generation, remember, expires_at)
    select sha256(age::bytea), $1, 1, false, now() - age::interval from unnest('{25 hours,23 hours}'::text[]) age`,
    [id],
  )
  await query(
    `insert into mail_tokens (hash, user_id, generation, purpose, email, expires_at)
    select sha256(age::bytea), $1, 1, 'reset', age, now() - age::interval from unnest('{25 hours,23 hours}'::text[]) age`,
    [id],
  )
  for (const batch of [deleteOldGuesses, deleteOldNetworks, deleteExpiredChallenges, deleteExpiredMailTokens])
    t.equal(await purge(db, batch), 1)
  t.strictSame(await query('select in_a_row from guesses order by in_a_row'), [
    { in_a_row: 99 },
    { in_a_row: 100 },
  ])
  t.strictSame(await query('select network from familiar_networks'), [{ network: '29 days' }])
  t.strictSame(await query('select email from mail_tokens'), [{ email: '23 hours' }])
  t.equal((await query('select from mfa_challenges where expires_at < now() - interval $$1 day$$')).length, 0)
})

t.test('what was guessed is not kept', async (t) => {
  const w = await world(t)
  const typed = `my password, in the wrong field ${randomUUID()}`
  await enter(w.a.url, { username: typed, password: 'x' }, somewhere())
  const kept = JSON.stringify(await w.query('select * , encode(account, $1) from guesses', ['escape']))
  t.notOk(kept.includes(typed))
  t.notOk(w.a.log.join('').includes(typed))
})

t.test('where nobody is any more, no network is remembered', async (t) => {
  const { a, clock, query } = await world(t)
  const { db } = a.app.database
  const guesses = createGuesses({ db, clock, audit: a.app.audit, limit: { max: 0, windowSeconds: 900 } })
  const { id } = await registerAndLogIn(a.url)
  await query('delete from users')
  await guesses.remember(id, home)
  t.strictSame(await query('select from familiar_networks'), [])
})
