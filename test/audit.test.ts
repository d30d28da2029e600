/** The audit trail: what happens is told once, by a line and a row, and neither requests nor outages have anything to do with it. */
import { randomInt } from 'node:crypto'
import { decodeJwt } from 'jose'
import { type TOTP, URI } from 'otpauth'
import pg from 'pg'
import t, { type Test } from 'tap'
import type { AuditEvent, Origin } from '../src/audit/events.ts'
import { deleteEventsAfter } from '../src/audit/expired.ts'
import { createLimitHits } from '../src/audit/limit-hits.ts'
import { purge } from '../src/db/purge.ts'
import type { Environment } from '../src/settings.ts'
import { embedded, type Instance, postgresAndRedis, randomUser, startInstance } from './fixtures/app.ts'
import {
  bearer,
  call,
  getProtected,
  type LoggedIn,
  logIn,
  logOut,
  post,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { type Ask, makeAdmin, type Pair, queryOf, startPair } from './fixtures/pair.ts'
import { startRelay } from './fixtures/relay.ts'
import { endGuessing, giveMailToken } from './fixtures/second-factor.ts'

interface Row {
  id: string
  at: Date
  event: string
  subject: string | null
  actor: string | null
  request_id: string | null
  address: string | null
  details: Record<string, unknown>
}

interface World extends Pair {
  admin: LoggedIn
  ask: Ask
}

async function world(t: Test, env: Environment = {}): Promise<World> {
  const pair = await startPair(t, env)
  return { ...pair, ...(await makeAdmin(pair)) }
}

interface Line {
  audit: AuditEvent
  reqId?: string
  address?: string
}

const linesOf = (...instances: Instance[]): Line[] =>
  instances
    .flatMap(({ log }) => log.map((line) => JSON.parse(line)))
    .filter(({ audit }) => audit)
    .map(({ audit, reqId, address }) => ({ audit, reqId, address }))

const messagesOf = ({ log }: Instance, pattern: RegExp) =>
  log.map((line) => JSON.parse(line)).filter(({ msg }) => pattern.test(msg))

/** What a row is the row of. */
function lineOf({ event, subject, actor, request_id, address, details }: Row): unknown {
  const about = /^(\w+)\./.exec(event)?.[1] ?? ''
  const name = { client: 'client', signing_key: 'kid', token: 'jti' }[about] ?? 'sub'
  return {
    audit: {
      event,
      ...details,
      ...(subject !== null && { [name]: subject }),
      ...(actor !== null && { by: actor }),
    },
    ...(request_id !== null && { reqId: request_id }),
    ...(address !== null && { address }),
  }
}

/** In one order, whatever the order of their members: instances write their rows each for itself. */
const sorted = (told: unknown[]) => told.map((one) => JSON.stringify(one, sortMembers)).sort()
const sortMembers = (_key: string, value: unknown) =>
  value && typeof value === 'object' && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value

async function rowsAfter(t: Test, { query }: Pick<World, 'query'>, lines: () => Line[]): Promise<Row[]> {
  let rows: Row[] = []
  await eventually(t, async () => {
    rows = await query('select * from audit_events order by id')
    return rows.length >= lines().length
  })
  return rows
}

const origin: Origin = { requestId: 'a request', address: '192.0.2.1', network: '192.0.2.1', userAgent: '' }
const somethingAbout = (sub: string): AuditEvent => ({ event: 'login.failed', sub, reason: 'wrong_password' })

t.test(
  'everything that happens is one line and one row, with who, whom and whence, and no secret',
  async (t) => {
    const w = await world(t)
    const { a, b, clock, admin, ask } = w
    const secrets: string[] = [admin.password, admin.token, admin.refreshToken]
    const keep = <T extends Pick<LoggedIn, 'token' | 'refreshToken'>>(session: T): T => {
      secrets.push(session.token, session.refreshToken)
      return session
    }
    const refreshed = async (url: string, token: string): Promise<string> => {
      const { status, body } = await refresh(url, token)
      t.equal(status, 200)
      secrets.push(body.access_token, body.refresh_token)
      return body.refresh_token
    }

    const user = keep(await registerAndLogIn(a.url))
    const { username, password } = user
    secrets.push(password)
    const wrong = randomUser()
    secrets.push(wrong.password, wrong.username)
    t.equal((await post(b.url, '/login', { ...wrong, username })).status, 401)
    t.equal((await post(b.url, '/login', wrong)).status, 401)

    const second = await refreshed(a.url, user.refreshToken)
    t.equal(await refreshed(b.url, user.refreshToken), second, 'a retry')
    await refreshed(a.url, second)
    await refreshed(b.url, user.refreshToken)
    clock.advance(31)
    t.strictSame(refusalOf(await refresh(b.url, user.refreshToken)), refusal('refresh_token_reused'))

    const leaving = keep(await logIn(b.url, user))
    t.equal((await logOut(b.url, leaving.token)).status, 204)

    t.equal((await ask('PUT', `/users/${user.id}/roles`, { roles: ['editor'] })).status, 200)
    const recalled = keep(await logIn(b.url, user))
    const reason = 'laptop stolen'
    t.equal((await ask('POST', `/users/${user.id}/revoke`, { reason })).status, 200)
    const { jti = '' } = decodeJwt(keep(await logIn(b.url, user)).token)
    t.equal((await ask('DELETE', `/tokens/${jti}?reason=seen`)).status, 204)
    t.equal((await ask('PUT', `/users/${user.id}/status`, { status: 'disabled' })).status, 200)
    t.equal((await post(a.url, '/login', { username, password })).status, 401)

    const { client_id, client_secret } = (
      await ask('POST', '/clients', { name: 'x', scopes: ['introspect'] })
    ).body
    secrets.push(client_secret)
    const basic = {
      authorization: `Basic ${Buffer.from(`${client_id}:${client_secret}`).toString('base64')}`,
    }
    const grant = {
      method: 'POST',
      headers: basic,
      body: new URLSearchParams({ grant_type: 'client_credentials' }),
    }
    secrets.push((await call(b.url, '/oauth2/token', grant)).body.access_token)

    const { kid } = (await ask('POST', '/keys')).body
    clock.advance(400)
    await eventually(
      t,
      async () => linesOf(a, b).filter(({ audit }) => 'kid' in audit && audit.kid === kid).length === 2,
    )

    const rows = await rowsAfter(t, w, () => linesOf(a, b))
    t.strictSame(sorted(rows.map(lineOf)), sorted(linesOf(a, b)), 'line by line')

    const told = (name: string, value: string | null) =>
      rows
        .filter((row) => row[name as 'subject'] === value)
        .map(({ event, actor, address, details }) => [event, details.reason, actor, address])
    const [here, nobody] = ['127.0.0.1', null]
    const ofUser = [
      ['account.registered', undefined, nobody, here],
      ['login.succeeded', undefined, nobody, here],
      ['login.failed', 'wrong_password', nobody, here],
      ['refresh_token.repeated', 'retry', nobody, here],
      ['refresh_token.repeated', 'parallel', nobody, here],
      ['refresh_token.reused', undefined, nobody, here],
      ['revocation.acknowledged', 'refresh_token_reused', nobody, here],
      ['login.succeeded', undefined, nobody, here],
      ['revocation.acknowledged', 'logout', nobody, here],
      ['revocation.acknowledged', 'roles_changed', nobody, here],
      ['account.roles_changed', undefined, admin.id, here],
      ['login.succeeded', undefined, nobody, here],
      ['revocation.acknowledged', reason, nobody, here],
      ['account.recalled', reason, admin.id, here],
      ['login.succeeded', undefined, nobody, here],
      ['revocation.acknowledged', 'account_disabled', nobody, here],
      ['account.disabled', undefined, admin.id, here],
      ['login.failed', 'disabled', nobody, here],
    ]
    t.strictSame(sorted(told('subject', user.id)), sorted(ofUser))
    t.strictSame(told('subject', jti), [['token.recalled', 'seen', admin.id, here]])
    t.strictSame(told('subject', kid), [
      ['signing_key.next', undefined, admin.id, here],
      ['signing_key.active', undefined, nobody, nobody],
    ])
    t.strictSame(
      sorted(told('subject', client_id)),
      sorted([
        ['client.created', undefined, admin.id, here],
        ['client.token_issued', undefined, nobody, here],
      ]),
    )
    t.strictSame(
      told('event', 'login.failed')
        .map(([, why]) => why)
        .sort(),
      ['disabled', 'unknown', 'wrong_password'],
    )
    const [recall] = rows.filter(({ event }) => event === 'account.recalled')
    t.strictSame(recall?.details, { sids: [recalled.sid], reason })
    const together = rows.filter(({ request_id }) => request_id === recall?.request_id)
    t.strictSame(
      together.map(({ event }) => event),
      ['revocation.acknowledged', 'account.recalled'],
      'what one request brought about has one id',
    )
    t.equal(rows.at(0)?.at.getTime(), clock.now() - 431_000, 'the moment is when it happened')

    const everything = JSON.stringify([rows, linesOf(a, b)])
    for (const secret of secrets) t.notOk(everything.includes(secret))
  },
)

t.test('what happens to factors, addresses and guesses is told in a line and a row as well', async (t) => {
  const w = await world(t, { ACCOUNT_RATE_MAX: '1' })
  const { a, b, clock, ask } = w
  const user = await registerAndLogIn(a.url)
  const held = bearer(user.token)
  const { username, password } = user
  const databaseUrl = w.stores.env.DATABASE_URL as string
  const enter = (password: string) => post(a.url, '/login', { username, password })
  const app = URI.parse((await post(a.url, '/mfa/totp', undefined, held)).body.otpauth_uri) as TOTP
  const code = () => app.generate({ timestamp: clock.now() })
  const codes = (await post(a.url, '/mfa/totp/verify', { code: code() }, held)).body.recovery_codes
  const first = await enter(password)
  await post(b.url, '/login/mfa', { mfa_token: 'x', code: '000000' })
  await post(b.url, '/login/mfa', { mfa_token: first.body.mfa_token, code: 'wrong' })
  const login = await post(b.url, '/login/mfa', { mfa_token: first.body.mfa_token, code: codes[0] })
  const proven = bearer(login.body.access_token)
  await post(a.url, '/mfa/recovery-codes', undefined, proven)
  await post(a.url, '/reauthenticate', { password, code: 'wrong' }, proven)
  // Before another link is asked for: of several, only the last one is good.
  await post(a.url, '/email/verify', { token: await giveMailToken(databaseUrl, user.id, 'verify') })
  await call(a.url, '/me/email', {
    method: 'PUT',
    headers: { ...proven, 'content-type': 'application/json' },
    body: '{"email":"ada@example.org"}',
  })
  await post(a.url, '/password/forgot', { username })
  await post(a.url, '/password/reset', { token: 'x', new_password: password })
  await call(a.url, '/mfa/totp', { method: 'DELETE', headers: proven })
  const token = await giveMailToken(databaseUrl, user.id, 'reset')
  await post(a.url, '/password/reset', { token, new_password: password })
  // From now on, nothing is from home.
  await w.query('delete from familiar_networks')
  for (const wrong of ['x', 'y', 'z']) await enter(wrong)
  await endGuessing(databaseUrl, username)
  await enter(password)
  await ask('DELETE', `/users/${user.id}/mfa`)

  const told = () => linesOf(a, b)
  const rows = await rowsAfter(t, w, told)
  t.strictSame(sorted(rows.map(lineOf)), sorted(told()))
  const about = rows.filter(({ subject }) => subject === user.id).map(({ event }) => event)
  for (const event of [
    'factor.enrolled',
    'login.challenged',
    'login.failed',
    'login.succeeded',
    'recovery_codes.renewed',
    'factor.refused',
    'account.email_asked',
    'account.email_verified',
    'factor.removed',
    'account.password_reset',
    'limit.exceeded',
    'guess.refused',
  ])
    t.ok(about.includes(event), event)
  const all = rows.map(({ event }) => event)
  for (const event of ['recovery.asked', 'mail_token.refused']) t.ok(all.includes(event), event)
  t.equal(about.filter((event) => event === 'limit.exceeded').length, 1, 'once in a window')
  const kept = JSON.stringify(rows)
  for (const secret of [
    password,
    'ada@example.org',
    ...codes,
    first.body.mfa_token,
    token,
    app.secret.base32,
  ])
    t.notOk(kept.includes(secret))
})

t.test('a limit that is hit is told once for each client and window, by each instance', async (t) => {
  const stores = await postgresAndRedis(t)
  const env = { TRUST_PROXY: '127.0.0.1', RATE_MAX: '4', LOGIN_RATE_MAX: '2', FORGERY_RATE_MAX: '1' }
  const instances = [await startInstance(t, { stores, env }), await startInstance(t, { stores, env })]
  const [a] = instances as [Instance]
  const client = () => `203.${randomInt(256)}.${randomInt(256)}.${randomInt(256)}`
  const [here, there] = [client(), client()]
  const via = (address: string) => ({ 'x-forwarded-for': address })
  const user = randomUser()
  const seen = new Set<number>()
  for (const from of [here, there]) {
    for (const { url } of instances)
      for (let time = 0; time < 6; time++) seen.add((await post(url, '/login', user, via(from))).status)
  }
  t.strictSame([...seen], [401, 429])
  t.equal((await post(a.url, '/register', user, via(client()))).status, 201)
  const { access_token: token } = (await post(a.url, '/login', user, via(client()))).body
  const forged = token.replace(/.{10}$/, 'A'.repeat(10))
  const forge = () => call(a.url, '/protected', { headers: { ...bearer(forged), ...via(here) } })
  const statuses = []
  for (let time = 0; time < 4; time++) statuses.push((await forge()).status)
  t.strictSame(statuses, [401, 429, 429, 429])

  const query = queryOf(stores)
  const rows = await rowsAfter(t, { query }, () => linesOf(...instances))
  const hits = rows.filter(({ event }) => event === 'limit.exceeded')
  t.strictSame(
    hits.map(({ address, details, subject }) => `${address} ${details.limit} ${subject}`).sort(),
    [
      // The login's is hit on the first instance; the address's then is, and on the second one.
      ...[here, there].flatMap((address) => [
        `${address} address null`,
        `${address} address null`,
        `${address} login null`,
      ]),
      `${here} forgery null`,
    ].sort(),
  )
})

t.test('of a flood from many addresses a thousand are told, and in the next window more', async (t) => {
  let [now, told] = [0, 0]
  const note = createLimitHits({ audit: { record: () => void told++ }, now: () => now })
  const flood = () => {
    for (let i = 0; i < 3_000; i++) note('address', `${i % 1_500}`, 60_000, origin)
  }
  flood()
  t.equal(told, 1_000)
  now = 59_999
  flood()
  t.equal(told, 1_000)
  now = 60_000
  flood()
  t.equal(told, 2_000)
})

t.test('rows are neither changed nor removed, by whatever SQL', async (t) => {
  const { query, a } = await world(t)
  const before = await rowsAfter(t, { query }, () => linesOf(a))
  t.ok(before.length > 0)
  for (const statement of [
    `update audit_events set address = 'elsewhere'`,
    `update audit_events set at = now() - interval '2 days'`,
    'delete from audit_events',
    'truncate audit_events',
  ])
    await t.rejects(query(statement), /append-only/, statement)
  t.strictSame(await query('select * from audit_events order by id'), before)
})

t.test(
  'rows that Postgres was not there for are written when it is, each once, and no request waits',
  async (t) => {
    const stores = await postgresAndRedis(t)
    const relay = await startRelay(t, stores.env.DATABASE_URL as string)
    const query = queryOf(stores)
    const cutOff = await startInstance(t, { stores: { env: { ...stores.env, DATABASE_URL: relay.url } } })
    const { token, id } = await registerAndLogIn(cutOff.url)
    await rowsAfter(t, { query }, () => linesOf(cutOff))

    relay.cut()
    cutOff.app.audit.record(somethingAbout('first'), origin)
    await eventually(t, async () => messagesOf(cutOff, /audit trail cannot be written now/).length > 0)
    t.equal((await logOut(cutOff.url, token)).status, 503)
    t.equal((await getProtected(cutOff.url, token)).status, 401)
    cutOff.app.audit.record(somethingAbout('last'), origin)
    t.strictSame(await query(`select * from audit_events where subject in ('first', 'last')`), [])
    await relay.mend()
    await eventually(t, async () => messagesOf(cutOff, /audit trail is written again/).length > 0)
    await eventually(t, async () =>
      linesOf(cutOff).some(({ audit }) => audit.event === 'revocation.recorded_late'),
    )
    const rows = await rowsAfter(t, { query }, () => linesOf(cutOff))
    t.strictSame(sorted(rows.map(lineOf)), sorted(linesOf(cutOff)))
    t.strictSame(
      rows.slice(-4).map(({ event, subject, details }) => [event, subject, details.reason]),
      [
        ['login.failed', 'first', 'wrong_password'],
        ['revocation.not_recorded', id, 'logout'],
        ['login.failed', 'last', 'wrong_password'],
        ['revocation.recorded_late', id, 'logout'],
      ],
    )
    t.equal(messagesOf(cutOff, /audit trail cannot be written now/).length, 1, 'an outage is told once')
  },
)

for (const fate of ['done', 'undone'] as const) {
  t.test(`rows whose commit was ${fate}, but not answered, are written once`, async (t) => {
    const stores = await postgresAndRedis(t)
    const relay = await startRelay(t, stores.env.DATABASE_URL as string)
    const query = queryOf(stores)
    const { app, ...instance } = await startInstance(t, {
      stores: { env: { ...stores.env, DATABASE_URL: relay.url } },
    })
    await rowsAfter(t, { query }, () => linesOf({ app, ...instance }))
    // Commits of rows wait for as long as this lock is held.
    const holder = new pg.Client({ connectionString: stores.env.DATABASE_URL as string })
    await holder.connect()
    await holder.query(`
    create function wait() returns trigger language plpgsql as
      'begin perform pg_advisory_xact_lock_shared(7); return null; end';
    create constraint trigger wait after insert on audit_events deferrable initially deferred
      for each row execute function wait();
    select pg_advisory_lock(7)`)
    const waiting = async () =>
      (await holder.query(`select from pg_locks where locktype = 'advisory' and not granted`)).rowCount ?? 0
    app.audit.record(somethingAbout('one'), origin)
    app.audit.record(somethingAbout('two'), origin)
    await eventually(t, async () => (await waiting()) > 0)
    if (fate === 'done') {
      relay.mute()
      await holder.query('select pg_advisory_unlock(7)')
      await eventually(
        t,
        async () => (await query(`select from audit_events where subject = 'one'`)).length > 0,
      )
      await relay.mend()
    } else {
      await holder.query(
        `select pg_terminate_backend(pid) from pg_locks join pg_database on pg_database.oid = pg_locks.database
          where locktype = 'advisory' and not granted and datname = current_database()`,
      )
    }
    await holder.end()
    app.audit.record(somethingAbout('three'), origin)
    await eventually(
      t,
      async () => (await query(`select from audit_events where subject = 'three'`)).length > 0,
    )
    const rows = await query(`select subject from audit_events where event = 'login.failed' order by id`)
    t.strictSame(rows, [{ subject: 'one' }, { subject: 'two' }, { subject: 'three' }])
  })
}

t.test('of more than an instance keeps, the oldest go, and the log says how many, once', async (t) => {
  const stores = await postgresAndRedis(t)
  const relay = await startRelay(t, stores.env.DATABASE_URL as string)
  const query = queryOf(stores)
  const instance = await startInstance(t, { stores: { env: { ...stores.env, DATABASE_URL: relay.url } } })
  await rowsAfter(t, { query }, () => linesOf(instance))
  relay.cut()
  for (let i = 0; i < 10_020; i++) instance.app.audit.record(somethingAbout(`${i}`), origin)
  await eventually(t, async () => messagesOf(instance, /audit trail cannot be written now/).length > 0)
  await relay.mend()
  await eventually(t, async () => messagesOf(instance, /audit trail is written again/).length > 0)
  const rows = await query(`select subject from audit_events where event = 'login.failed' order by id`)
  t.strictSame(
    rows.map(({ subject }) => Number(subject)),
    Array.from({ length: 10_000 }, (_, i) => i + 20),
  )
  t.match(messagesOf(instance, /audit trail is written again/), [{ dropped: 20, level: 50 }])
})

t.test('a row that the database refuses costs no other its own', async (t) => {
  const { a, query } = await world(t)
  for (const sub of ['before', 'a\0b', 'after']) a.app.audit.record(somethingAbout(sub), origin)
  a.app.audit.record(somethingAbout('last'), origin)
  await eventually(t, async () => (await query(`select from audit_events where subject = 'last'`)).length > 0)
  const rows = await query(`select subject from audit_events where event = 'login.failed' order by id`)
  t.strictSame(rows, [{ subject: 'before' }, { subject: 'after' }, { subject: 'last' }])
  t.match(messagesOf(a, /row of the audit trail was refused/), [{ event: 'login.failed' }])
})

for (const storesOf of [postgresAndRedis, embedded]) {
  t.test(`${storesOf.name}: an instance that has closed has written all`, async (t) => {
    const stores = await storesOf(t)
    const { app, url } = await startInstance(t, { stores })
    const user = await registerAndLogIn(url)
    t.equal((await post(url, '/login', { ...user, password: 'x' })).status, 400)
    const { username } = user
    t.equal((await post(url, '/login', { username, password: 'x' })).status, 401)
    for (let i = 0; i < 1_200; i++) app.audit.record(somethingAbout(`${i}`), origin)
    await app.close()
    const next = await startInstance(t, { stores })
    const events = await listAll(next.app.audit.list, {})
    t.equal(events.length, 1_200 + 4)
    t.strictSame(
      events.slice(-4).map(({ event, subject }) => [event, subject === user.id]),
      [
        ['login.failed', true],
        ['login.succeeded', true],
        ['account.registered', true],
        ['signing_key.active', false],
      ],
    )
  })
}

async function listAll(list: Instance['app']['audit']['list'], filter: object) {
  const found = []
  let cursor: string | undefined
  do {
    const { events, next_cursor } = await list(filter, cursor)
    found.push(...events)
    cursor = next_cursor
  } while (cursor !== undefined)
  return found
}

t.test('an admin reads the newest first, a page at a time, whatever is added meanwhile', async (t) => {
  const w = await world(t)
  const { a, admin, query, ask } = w
  await query(
    `insert into audit_events (at, event, subject, actor, details)
      select now(), case when n % 2 = 0 then 'login.failed' else 'account.enabled' end, 'whoever',
        case when n % 50 = 0 then 'cli' end, jsonb_build_object('n', n)
      from generate_series(1, 250) n`,
  )
  const find = async (filter: Record<string, string>) => {
    const found: Record<string, unknown>[] = []
    let pages = 0
    for (let cursor: string | undefined = ''; cursor !== undefined; pages++) {
      const { status, headers, body } = await ask(
        'GET',
        `/audit?${new URLSearchParams({ ...filter, ...(cursor && { cursor }) })}`,
      )
      t.equal(status, 200)
      t.equal(headers.get('cache-control'), 'no-store')
      found.push(...body.events)
      cursor = body.next_cursor
      await query(
        `insert into audit_events (at, event, subject, details) values (now(), 'login.failed', 'whoever', '{"n": 0}')`,
      )
    }
    return { found, pages, ns: found.map(({ details }) => (details as { n: number }).n) }
  }
  const down = (from: number, step: number) =>
    Array.from({ length: Math.ceil(from / step) }, (_, i) => from - i * step)
  const whoever = await find({ subject: 'whoever' })
  t.strictSame(whoever.ns, down(250, 1))
  t.equal(whoever.pages, 3)
  const { found, ns } = await find({ subject: 'whoever', actor: 'cli' })
  t.strictSame(ns, down(250, 50))
  const { id, at, ...first } = found[0] as { id: number; at: string }
  t.strictSame(first, { event: 'login.failed', subject: 'whoever', actor: 'cli', details: { n: 250 } })
  t.ok(Number.isInteger(id) && Math.abs(Date.parse(at) - Date.now()) < 60_000)
  t.strictSame((await find({ event: 'account.enabled' })).ns, down(249, 2))
  t.strictSame((await find({ subject: 'nobody' })).found, [])
  t.strictSame((await find({ subject: "' or true --" })).found, [])

  await rowsAfter(t, w, () => linesOf(a))
  const own = await find({ subject: admin.id })
  t.match(own.found.at(-1), {
    event: 'account.registered',
    subject: admin.id,
    request_id: /^[\w-]{10,40}$/,
    address: '127.0.0.1',
  })
  for (const wrong of [
    ...['', '0', '-1', '1.5', '1e3', 'x', '9'.repeat(16), '1 or true', '%00'].map((text) => `cursor=${text}`),
    ...['event=', 'event=LOGIN', 'event=login.failed%00', 'subject=', 'actor=%00', 'limit=1000'],
  ]) {
    const { status, body } = await ask('GET', `/audit?${wrong}`)
    t.match([status, body.code], [400, 'invalid_request'], wrong)
  }
})

t.test('nobody but an admin reads it', async (t) => {
  const { a, b } = await world(t)
  const { token } = await registerAndLogIn(a.url)
  for (const { url } of [a, b]) {
    const read = (headers = {}) => call(url, '/admin/audit', { headers })
    t.strictSame(refusalOf(await read(bearer(token))), refusal('forbidden'))
    t.strictSame(refusalOf(await read()), refusal('missing_token'))
  }
})

t.test('rows go when they are older than AUDIT_DAYS, and not before', async (t) => {
  const stores = await postgresAndRedis(t)
  const query = queryOf(stores)
  const timers = t.capture(globalThis, 'setInterval', setInterval)
  const instance = await startInstance(t, { stores, env: { AUDIT_DAYS: '30' } })
  const { db } = instance.app.database
  const purges = timers().filter(({ args: [, ms] }) => ms === 600_000)
  t.equal(purges.length, 1)
  await rowsAfter(t, { query }, () => linesOf(instance))
  await query(
    `insert into audit_events (at, event, subject, details)
      select now() - interval '30 days' + n * interval '1 minute', 'login.failed', case when n < 0 then 'old' else 'young' end, '{}'
      from generate_series(-2500, 10) n where n <> 0`,
  )
  const left = () => query(`select subject from audit_events where event = 'login.failed'`)
  const [purgeAll] = purges.flatMap(({ args }) => args) as [() => void]
  purgeAll()
  await eventually(t, async () => (await left()).length <= 10)
  t.strictSame(await left(), Array(10).fill({ subject: 'young' }))
  t.equal(await purge(db, deleteEventsAfter(1)), 10)
  t.equal((await query('select from audit_events')).length, linesOf(instance).length, 'those of today stay')
})

t.test('what is told of an account by a shell is told of it to whoever reads', async (t) => {
  const { a, query } = await world(t)
  const { id } = await registerAndLogIn(a.url)
  await a.app.accounts.setRoles(id, ['editor'], { by: 'cli' })
  const rows = await rowsAfter(t, { query }, () => linesOf(a))
  t.match(rows.at(-1), {
    event: 'account.roles_changed',
    subject: id,
    actor: 'cli',
    request_id: null,
    address: null,
    details: { roles: ['editor'] },
  })
})
