/** Whatever happens to the service's own processes: a revocation that was acknowledged holds on both instances. */
import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { eq, sql } from 'drizzle-orm'
import { decodeJwt } from 'jose'
import t, { type Test } from 'tap'
import type { RevocationEntry } from '../../src/bearer/revoked-entries.ts'
import { users } from '../../src/db/tables.ts'
import { generationEntry, sessionEntry } from '../../src/revocation/entries.ts'
import { stepGeneration } from '../../src/sessions/generation.ts'
import { randomUser, type User, withClient, withRedis } from '../fixtures/app.ts'
import {
  assertLifetime,
  bearer,
  call,
  getProtected,
  type LoggedIn,
  logIn,
  logOut,
  post,
  type Reply,
  refresh,
  registerAndLogIn,
} from '../fixtures/client.ts'
import { report, watched } from '../fixtures/endure.ts'
import { eventually } from '../fixtures/eventually.ts'
import { ensureFaketime, findFaketime } from '../fixtures/install.ts'
import { createWorld, type Member, modes, rounds, type World } from '../fixtures/world.ts'

/** How many tokens are logged out and used at once, in each world. */
const pairs = Number(process.env.FAULT_PAIRS_PER_WORLD ?? 500)
/** The longest that a logout may take while another instance holds the locks that it had. */
const logoutDeadlineMs = 3_000
/** How soon both instances agree about what was not acknowledged: a refresh ends it for good, and waits for the hold. */
const agreedWithinMs = 1_000
/** How soon that is recorded which could not be at first. */
const recordedWithinMs = 2_000
/** How long a request takes from the client's hands to the service's. */
const arrivedWithinMs = 50

/** Asked before anything is watched: to install it stops this process for seconds. */
const faketimeMissing = ensureFaketime()

const admin: User = { ...randomUser(), username: 'root' }

type Session = Pick<LoggedIn, 'token' | 'refreshToken' | 'sid'>
type Case = (t: Test, world: World) => Promise<void>

const cases: Record<string, Case> = {
  'killed in the middle of 200 logouts': async (t, world) =>
    survivesKill(t, world, world.a, await sessionsOf(world, 20, 10)),

  'a logout that is killed before its commit has happened everywhere or nowhere': killedBeforeCommit,

  'stopped across a revocation, and continued': (t, world) => thaws(t, world),

  'the same, and Redis has forgotten all of it': (t, world) =>
    thaws(t, world, () => withRedis(world.redis.url, (redis) => redis.flushall())),

  'restarted one after the other, under load': rollsOver,

  'told to end when a request has just arrived': answersWhatHasArrived,

  'clocks that are ahead by 90 s': (t, world) => agreesWithClock(t, world, 90),

  'clocks that are behind by 90 s': (t, world) => agreesWithClock(t, world, -90),

  'a shorter life of tokens, when one instance has it already': outlivesLongerTokens,

  'logged out by a token that has expired, while another tab has one that has not': endsOtherTabs,

  'a new password, while logins with the old one and refreshes are under way': async (t, world) => {
    // Few at a time: each keeps connections waiting, and the others need some.
    await inLanes(5, 10, () => outrunsOldPassword(t, world))
  },
}

for (const pair of modes) {
  t.test(`instances that ask ${pair.join(' and ')}`, async (t) => {
    const env = {
      SESSIONS_PER_ACCOUNT: '1000',
      BOOTSTRAP_ADMIN_USERNAME: admin.username,
      BOOTSTRAP_ADMIN_PASSWORD: admin.password,
    }
    const world = await createWorld(t, { modes: pair, env })
    const holding = (name: string, holds: Case) =>
      t.test(name, (t) => watched(t, world, () => holds(t, world)))
    for (let round = 0; round < rounds; round++)
      for (const [name, holds] of Object.entries(cases)) await holding(name, holds)
    await holding('used at once after the logout, here and there', usedAtOnce)
    await report(t, world)
  })
}

/** Kills one of the two when it has answered half of what it was asked at once. */
async function survivesKill(t: Test, world: World, victim: Member, sessions: readonly Session[]) {
  const other = otherThan(world, victim)
  const acknowledged: Session[] = []
  const unacknowledged: Session[] = []
  let answered = 0
  await Promise.all(
    sessions.map(async (session) => {
      world.tally.tried++
      const reply = await logOut(victim.url, session.token).catch(() => undefined)
      if (reply && ++answered === sessions.length / 2) kill(victim)
      // A machine that is busy may answer 503 to some.
      if (reply?.status !== 204) return void unacknowledged.push(session)
      acknowledged.push(session)
      await world.ask(other, session.token, true)
    }),
  )
  t.equal((await victim.process.end).signal, 'SIGKILL')
  await back(world, victim, acknowledged)
  t.ok(answered < sessions.length, 'some were not answered')
  t.comment(`${acknowledged.length} acknowledged, ${unacknowledged.length} not`)
  await areOfOneMind(t, world, unacknowledged, agreedWithinMs)
}

/** Their rows are locked by somebody else, so that they are in the index alone when it is killed. */
async function killedBeforeCommit(t: Test, world: World) {
  const { a, postgres } = world
  const sessions = await world.logIn(4)
  await withClient(postgres.url, async (client) => {
    await client.query('begin')
    await client.query('select from sessions where id = any($1) for update', [sessions.map(({ sid }) => sid)])
    const replies = sessions.map(({ token }) => logOut(a.url, token).catch(() => undefined))
    await eventually(t, async () => (await countWaiting(world)) > 0)
    kill(a)
    t.strictSame(
      await Promise.all(replies),
      sessions.map(() => undefined),
    )
    await a.process.end
    await client.query('rollback')
  })
  await back(world, a)
  await areOfOneMind(t, world, sessions, agreedWithinMs)
}

/** Freezes one that has just got the lock that every revocation needs. */
async function thaws(t: Test, world: World, meanwhile?: () => Promise<unknown>) {
  const { a, b, postgres } = world
  const [caught, doomed, spare] = [await world.logIn(20), await world.logIn(10), await world.logIn(10)]
  const inTransit = await withClient(postgres.url, async (client) => {
    await client.query('begin; select from revocation_head for update')
    const replies = caught.map(({ token }) => logOut(b.url, token))
    await eventually(t, async () => (await countWaiting(world)) > 0)
    b.absent = true
    b.process.signal('SIGSTOP')
    await client.query('rollback')
    return replies
  })

  const start = performance.now()
  t.ok((await world.takeBack(doomed, a)).every((status) => status === 204))
  const took = Math.round(performance.now() - start)
  t.ok(took < logoutDeadlineMs, `acknowledged by the other within ${took} ms`)
  await meanwhile?.()
  const dead = tokensOf(doomed).map((token) => getProtected(b.url, token))
  const live = tokensOf(spare).map((token) => getProtected(b.url, token))
  // By the time that the other has answered as much, those are on their way.
  await Promise.all(tokensOf(spare).map((token) => world.ask(a, token, false)))

  b.process.signal('SIGCONT')
  t.strictSame(
    (await Promise.all(dead)).filter(({ body }) => body.code !== 'token_revoked'),
    [],
  )
  t.strictSame(
    (await Promise.all(live)).filter(({ status }) => status !== 200),
    [],
  )
  b.absent = false
  const statuses = (await Promise.all(inTransit)).map(({ status }) => status)
  t.comment(`logouts took ${took} ms; those in transit were answered ${statuses}`)
  t.ok(
    statuses.every((status) => status === 204 || status === 503),
    'acknowledged or not',
  )
  const acknowledged = tokensOf(caught.filter((_, i) => statuses[i] === 204))
  await Promise.all(acknowledged.map((token) => world.ask(a, token, true)))
  world.dead.push(...acknowledged)
  await areOfOneMind(t, world, caught, recordedWithinMs)
}

/** Clients that live their lives on whoever is up, while one after the other is ended and started anew. */
async function rollsOver(t: Test, world: World) {
  const { a, b, findings, dead } = world
  let rolling = true
  let toldAt = Number.POSITIVE_INFINITY
  let turnedAway = 0
  const underWay = new Map<Member, number>([
    [a, 0],
    [b, 0],
  ])
  let turn = 0

  /** Asks whoever is up. What it was asked in good time before it was told to end, it answers. */
  async function send(what: string, status: number, ask: (url: string) => Promise<Reply>) {
    for (;;) {
      const up = [a, b].filter(({ absent }) => !absent)
      const member = up[turn++ % up.length] as Member
      const sent = performance.now()
      underWay.set(member, Number(underWay.get(member)) + 1)
      const reply = await ask(member.url).catch((error) => error.cause ?? error)
      underWay.set(member, Number(underWay.get(member)) - 1)
      if (reply.status === status) return reply.body
      const isTurnedAway = reply.status === undefined && member.absent && sent > toldAt - arrivedWithinMs
      if (isTurnedAway) turnedAway++
      else findings.push(`${member.name}: ${what}, ${reply.status ?? reply} ${reply.body?.code ?? ''}`)
      if (!rolling || !isTurnedAway) throw new Error('a life has ended')
    }
  }

  const people = await world.logIn(8)
  // Whoever is answered wrongly lives no longer; that is a finding already.
  const lives = Promise.allSettled(
    people.map(async ({ username, password }) => {
      while (rolling) {
        const { access_token: token, refresh_token: refreshToken } = await send('a login', 200, (url) =>
          post(url, '/login', { username, password }),
        )
        await send('a live token', 200, (url) => getProtected(url, token))
        const { access_token: newer } = await send('a refresh', 200, (url) => refresh(url, refreshToken))
        world.tally.tried++
        await send('a logout', 204, (url) => logOut(url, newer))
        for (const one of [token, newer]) await send('a dead token', 401, (url) => getProtected(url, one))
        dead.push(token, newer)
      }
    }),
  )
  for (const member of [a, b]) {
    // It has something to finish.
    await eventually(t, async () => Number(underWay.get(member)) > 2)
    member.absent = true
    toldAt = performance.now()
    member.process.signal('SIGTERM')
    const { code, stderr } = await member.process.endsWithin(5_000)
    t.strictSame({ code, stderr }, { code: 0, stderr: '' })
    await back(world, member)
  }
  rolling = false
  await lives
  t.comment(`${turnedAway} requests arrived with the signal and were turned away`)
}

/** It finds the signal and the request at the same time, on a connection that was used before. */
async function answersWhatHasArrived(t: Test, world: World) {
  const { a } = world
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const ask = () => request(`${a.url}/health/live`, { agent }).end()
  const [first] = (await once(ask(), 'response')) as [IncomingMessage]
  await once(first.resume(), 'end')

  a.absent = true
  a.process.signal('SIGSTOP')
  const asked = ask()
  const answered = once(asked, 'response').then(
    ([response]) => (response as IncomingMessage).resume().statusCode,
    (error) => error.code,
  )
  await once(asked, 'finish')
  a.process.signal('SIGTERM')
  a.process.signal('SIGCONT')
  t.equal(await answered, 200)
  t.equal((await a.process.endsWithin(5_000)).code, 0)
  agent.destroy()
  await back(world, a)
}

/** Both go by Postgres's clock, whatever their own ones say. */
async function agreesWithClock(t: Test, world: World, offset: number) {
  if (faketimeMissing && process.env.CI) throw new Error(faketimeMissing)
  if (faketimeMissing) {
    t.pass(`${faketimeMissing}: without it, no process has another clock`, { skip: true })
    return
  }
  const { a, b } = world
  await world.restart(b, {
    LD_PRELOAD: findFaketime(),
    FAKETIME: `${offset > 0 ? '+' : ''}${offset}s`,
    DONT_FAKE_MONOTONIC: '1',
  })
  const { headers } = await call(b.url, '/health/live')
  const isApart = Date.parse(headers.get('date') as string) - Date.now() - offset * 1000
  t.ok(Math.abs(isApart) < 2_000, 'its own clock is another')

  const before = await secondsInPostgres(world)
  const user = await registerAndLogIn(a.url)
  const sessions = [user, await logIn(b.url, user), await logIn(a.url, user), await logIn(b.url, user)]
  await Promise.all(sessions.flatMap(({ token }) => [a, b].map((member) => world.ask(member, token, false))))
  const after = await secondsInPostgres(world)
  for (const { token } of sessions) {
    const { iat = 0, exp = 0 } = decodeJwt(token)
    t.ok(iat >= Math.floor(before - 1) && iat <= after + 1, 'issued now')
    assertLifetime(t, exp - iat, 900)
  }
  const lists = await Promise.all(
    [a, b].map(async ({ url }) => (await call(url, '/sessions', { headers: bearer(user.token) })).body),
  )
  t.strictSame(lists[0], lists[1])
  t.equal(lists[0].sessions.length, sessions.length)
  for (const { created_at, last_used_at } of lists[0].sessions) {
    t.equal(last_used_at, created_at)
    const createdAt = Date.parse(created_at) / 1000
    t.ok(createdAt >= before - 1 && createdAt <= after + 1, 'begun now')
  }

  // Each is logged out by the one that did not issue it, and the last two by the one that did.
  const takenBack = [...sessions.slice(1, 2), ...sessions.slice(0, 1), ...sessions.slice(2)]
  t.strictSame(await world.takeBack(takenBack), [204, 204, 204, 204])
  await areOutlived(t, world, sessions.map(entryOfSession))
}

/** What was issued before goes on for as long as it was issued for. */
async function outlivesLongerTokens(t: Test, world: World) {
  const { a, b } = world
  const { token: adminToken } = await logIn(a.url, admin)
  const [one, two, three, four] = (await Promise.all(
    Array.from({ length: 4 }, () => registerAndLogIn(a.url)),
  )) as [LoggedIn, LoggedIn, LoggedIn, LoggedIn]
  const mine = await logIn(a.url, two)
  await world.restart(b, { ACCESS_TOKEN_TTL_SECONDS: '60' })

  const replies = await Promise.all([
    logOut(b.url, one.token),
    post(b.url, '/logout?scope=others', undefined, bearer(mine.token)),
    post(b.url, '/logout?scope=all', undefined, bearer(three.token)),
    call(b.url, `/admin/users/${four.id}/roles`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json', ...bearer(adminToken) },
      body: JSON.stringify({ roles: ['editor'] }),
    }),
  ])
  t.strictSame(
    replies.map(({ status }) => status),
    [204, 204, 204, 200],
  )
  world.dead.push(...tokensOf([one, two, three, four]))
  await world.ask(a, mine.token, false)
  await areOutlived(t, world, [
    ...[one, two].map(entryOfSession),
    ...[three, four].map(({ id, token }) => generationEntry(id, 1, expOf(token))),
  ])
}

/** One tab was closed long ago, the other has refreshed at an instance that issues longer tokens. */
async function endsOtherTabs(t: Test, world: World) {
  const { a, b } = world
  await world.restart(b, { ACCESS_TOKEN_TTL_SECONDS: '1', CLOCK_TOLERANCE_SECONDS: '0' })
  await Promise.all(
    [a, b].map(async (at) => {
      const session = await registerAndLogIn(b.url)
      const { access_token: otherTab } = (await refresh(a.url, session.refreshToken)).body
      await eventually(
        t,
        async () => (await getProtected(b.url, session.token)).body.code === 'token_expired',
      )
      await Promise.all([a, b].map((member) => world.ask(member, otherTab, false)))
      world.tally.tried++
      t.equal((await logOut(at.url, session.token)).status, 204)
      await Promise.all([a, b].map((member) => world.ask(member, otherTab, true)))
      world.dead.push(otherTab)
      await areOutlived(t, world, [entryOfSession({ ...session, token: otherTab })])
    }),
  )
  await world.restart(b)
}

/** No HTTP door changes a password yet: this is what one will do. */
async function outrunsOldPassword(t: Test, world: World) {
  const { a, b, scribe, postgres } = world
  const user = await registerAndLogIn(a.url)
  const successor = await registerAndLogIn(b.url)
  const others = [await logIn(b.url, user), await logIn(a.url, user), await logIn(b.url, user)]
  const { username, password, id } = user
  const old = { username, password }
  const logInAt = ({ url }: Member, who: User) => post(url, '/login', who)
  const racing: Promise<Reply>[] = []
  racing.push(logInAt(a, old), ...others.slice(0, 2).map((tab) => refresh(b.url, tab.refreshToken)))

  world.tally.tried++
  await scribe.app.revocation.revoke({
    entries: [generationEntry(id, 1, expOf(user.token))],
    reason: 'password_changed',
    async within(tx) {
      const [found] = await tx.select().from(users).where(eq(users.id, id)).for('update')
      const hash = sql`(select password_hash from users where id = ${successor.id})`
      await tx.update(users).set({ passwordHash: hash }).where(eq(users.id, id))
      // These find the old hash, and whatever they do next they do after this.
      racing.push(logInAt(b, old), ...others.slice(2).map((tab) => refresh(a.url, tab.refreshToken)))
      await eventually(t, async () => (await countWaiting(world)) > 0, 500)
      const now = scribe.app.clock.now()
      const latestExpiry = scribe.app.accessTokens.latestExpiry(Math.floor(now / 1000))
      return [
        await stepGeneration(tx, {
          user: found as typeof users.$inferSelect,
          survivors: 'none',
          latestExpiry,
          now: new Date(now),
        }),
      ]
    },
  })
  const late = [a, b].map((member) => logInAt(member, old))
  await Promise.all([a, b].map((member) => world.ask(member, user.token, true)))
  for (const { status } of await Promise.all(late)) t.equal(status, 401)
  const replies = await Promise.all(racing)
  t.ok(
    replies.every(({ status }) => status === 200 || status === 401),
    'each was before or after',
  )
  const issued = [...tokensOf(others), ...replies.flatMap(({ body }) => body.access_token ?? [])]
  await Promise.all(issued.flatMap((token) => [world.ask(a, token, true), world.ask(b, token, true)]))
  world.dead.push(user.token, ...issued)
  const refreshed = replies.flatMap(({ body }) => body.refresh_token ?? [])
  for (const { status } of await Promise.all(refreshed.map((token) => refresh(a.url, token))))
    t.equal(status, 401)
  const left = 'select from sessions where user_id = $1 and ended_at is null'
  t.equal((await withClient(postgres.url, (client) => client.query(left, [id]))).rowCount, 0)

  const { token } = await logIn(b.url, { username, password: successor.password })
  await Promise.all([world.ask(a, token, false), world.ask(b, token, false)])
}

/** Of accounts that stay, so that it is about the tokens alone. */
async function usedAtOnce(t: Test, world: World) {
  const { a, b, tally } = world
  const before = { ...tally }
  const sessions = (await sessionsOf(world, 20, Math.ceil(pairs / 20))).slice(0, pairs)
  await inLanes(100, sessions.length, async (i) => {
    const statuses = await world.takeBack(sessions.slice(i, i + 1), i % 2 ? a : b)
    if (statuses[0] !== 204) world.findings.push(`a logout, ${statuses}`)
  })
  t.equal(tally.cameBack, before.cameBack)
  t.comment(`${tally.tried - before.tried} used at once, ${tally.cameBack - before.cameBack} came back`)
}

const tokensOf = (sessions: readonly Pick<Session, 'token'>[]) => sessions.map(({ token }) => token)
const expOf = (token: string) => decodeJwt(token).exp as number
const entryOfSession = ({ sid, token }: Omit<Session, 'refreshToken'>) => sessionEntry(sid, expOf(token))

const otherThan = ({ a, b }: World, member: Member) => (member === a ? b : a)

function kill(member: Member): void {
  member.absent = true
  member.process.signal('SIGKILL')
}

/** Starts one that has ended. What it is asked first is about what was taken back. */
async function back(world: World, member: Member, acknowledged: readonly Session[] = []) {
  await member.start()
  member.absent = false
  const dead = tokensOf(acknowledged)
  world.dead.push(...dead)
  await inLanes(10, dead.length, (i) => world.ask(member, dead[i] as string, true))
  await world.askAround()
}

/** A session has ended or it has not: its access token and its refresh token say the same, on both instances. */
async function areOfOneMind(t: Test, { a, b }: World, sessions: readonly Session[], withinMs: number) {
  const split: number[][] = []
  await inLanes(10, sessions.length, async (i) => {
    const { token } = sessions[i] as Session
    let { refreshToken } = sessions[i] as Session
    const deadline = performance.now() + withinMs
    for (; ; await delay(20)) {
      // What was asked before must not be held against what is so by now.
      const isLast = performance.now() > deadline
      const uses = await Promise.all([a, b].map(({ url }) => getProtected(url, token)))
      const { status, body } = await refresh(a.url, refreshToken)
      const states = [...uses.map((use) => use.status), status]
      if (states.every((state) => state === status)) return
      if (isLast) return void split.push(states)
      if (status === 200) refreshToken = body.refresh_token
    }
  })
  t.strictSame(split, [], 'each has ended or it has not')
}

/** People who have each logged in so often. */
async function sessionsOf(world: World, people: number, each: number): Promise<Session[]> {
  const { a, b } = world
  const users = await world.logIn(people)
  const sessions: Session[] = [...users]
  await inLanes(10, people * (each - 1), async (i) => {
    sessions.push(await logIn(i % 2 ? a.url : b.url, users[i % people] as LoggedIn))
  })
  return sessions
}

/** So many times, but only so many at once. */
async function inLanes(lanes: number, times: number, act: (i: number) => Promise<unknown>) {
  const left = Array.from({ length: times }, (_, i) => i).values()
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      for (const i of left) await act(i)
    }),
  )
}

/** How many statements wait for locks. On a connection of its own: those of an instance may be taken. */
const countWaiting = async ({ postgres }: World) =>
  await withClient(postgres.url, async (client) => {
    const { rowCount } = await client.query("select from pg_stat_activity where wait_event_type = 'Lock'")
    return Number(rowCount)
  })

const secondsInPostgres = ({ postgres }: World): Promise<number> =>
  withClient(postgres.url, async (client) => {
    const { rows } = await client.query('select extract(epoch from clock_timestamp())::float8 as now')
    return rows[0].now
  })

/** What refuses them is in the record and in the index for at least as long as this. */
async function areOutlived(t: Test, world: World, entries: readonly RevocationEntry[]) {
  const now = await secondsInPostgres(world)
  await withRedis(world.redis.url, (redis) =>
    withClient(world.postgres.url, async (client) => {
      for (const { scope, subject, expiresAt } of entries) {
        const recorded = await client.query(
          'select extract(epoch from expires_at)::float8 as end from revocations where scope = $1 and subject = $2',
          [scope, subject],
        )
        t.ok(recorded.rows[0]?.end >= expiresAt, `the record keeps ${scope} ${subject}`)
        // In whole seconds, one of which may just have passed.
        const left = await redis.ttl(`rv:${scope[0]}:${subject}`)
        t.ok(now + left >= expiresAt - 2, `the index keeps ${scope} ${subject}`)
      }
    }),
  )
}
