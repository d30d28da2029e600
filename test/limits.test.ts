/** How often a client may ask without a token, who a client is, and that nothing is gained by pretending to be another. */
import { randomInt, randomUUID } from 'node:crypto'
import type { InjectOptions } from 'fastify'
import { Redis } from 'ioredis'
import type pg from 'pg'
import t, { type Test } from 'tap'
import type { Environment } from '../src/settings.ts'
import {
  embedded,
  type Instance,
  postgresAndRedis,
  randomUser,
  startInstance,
  type User,
  withClient,
  withRedis,
} from './fixtures/app.ts'
import {
  bearer,
  call,
  exchange,
  getProtected,
  logIn,
  post,
  type Reply,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { type Server, startRedis } from './fixtures/servers.ts'

type Headers = Record<string, string>

const max = 8
const windowSeconds = 60
const loginMax = 3
const loginWindowSeconds = 600
const limits: Environment = {
  RATE_MAX: `${max}`,
  RATE_WINDOW_SECONDS: `${windowSeconds}`,
  LOGIN_RATE_MAX: `${loginMax}`,
  LOGIN_RATE_WINDOW_SECONDS: `${loginWindowSeconds}`,
}
/** The tests are the proxy, and so can be anybody. */
const trusted: Environment = { TRUST_PROXY: '127.0.0.1,10.0.0.0/8,2001:db8:ffff::/48' }

/** Every test is a client, or several, that nobody has ever seen. */
const randomAddress = () => `203.${randomInt(256)}.${randomInt(256)}.${randomInt(256)}`
const randomNetwork = () =>
  `2001:db8:${randomInt(4096, 65_535).toString(16)}:${randomInt(4096, 65_536).toString(16)}`
const via = (...addresses: string[]): Headers => ({ 'x-forwarded-for': addresses.join(', ') })

const basic = ({ username, password }: User): Headers => ({
  authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`,
})

/** The cheapest request that is counted. */
const knock = (url: string, headers: Headers = {}): Promise<Reply> => post(url, '/logout', undefined, headers)
const answered = refusal('missing_token')

function assertLimited(t: Test, reply: Reply, name: string, seconds = windowSeconds): void {
  const retryAfter = reply.headers.get('retry-after') ?? ''
  t.strictSame(refusalOf(reply), refusal('rate_limited', undefined, retryAfter), name)
  t.match(retryAfter, /^[1-9]\d*$/, name)
  t.ok(Number(retryAfter) <= seconds, `${name}: ${retryAfter} s are at most the window`)
  // The windows here are so different that one tells which limit it was.
  if (seconds === loginWindowSeconds) t.ok(Number(retryAfter) > windowSeconds, `${name}: a limit of logins`)
  const told = ['ratelimit-remaining', 'ratelimit-reset'].map((header) => reply.headers.get(header))
  t.strictSame(told, ['0', retryAfter], `${name}: and the headers speak of that limit`)
  t.equal(reply.headers.get('cache-control'), 'no-store', `${name}: kept by nobody`)
}

const remaining = (reply: Reply) => Number(reply.headers.get('ratelimit-remaining') ?? Number.NaN)
const limitHeaders = (reply: Reply) =>
  [...reply.headers.keys()].filter((name) => /rate-?limit|retry/.test(name))

/** Uses up what an address may ask. */
async function exhaust(t: Test, url: string, headers: Headers): Promise<void> {
  for (let left = max - 1; left >= 0; left--) t.equal(remaining(await knock(url, headers)), left)
  assertLimited(t, await knock(url, headers), 'one more')
}

async function timed(asking: Promise<Reply>) {
  const start = performance.now()
  const reply = await asking
  return { reply, took: performance.now() - start }
}

function connectTo(t: Test, { url }: Server): Redis {
  const direct = new Redis(url)
  t.teardown(() => direct.disconnect())
  return direct
}

const postgres = await postgresAndRedis(t)
const redis = await startRedis()
t.teardown(redis.stop)
const stores = { env: { ...postgres.env, REDIS_URL: redis.url } }
const counts = connectTo(t, redis)
/** Counts in its own memory. */
const alone: Environment = { REDIS_URL: undefined }

for (const pair of ['Postgres and Redis, two instances', 'embedded'] as const) {
  t.test(pair, async (t) => {
    const isEmbedded = pair === 'embedded'
    const env = { ...limits, ...trusted }
    const its = isEmbedded ? await embedded(t) : stores
    const a = await startInstance(t, { stores: its, env })
    const b = isEmbedded ? a : await startInstance(t, { stores: its, env })
    const urls = [a.url, b.url] as const
    /** One after the other. */
    const turn = (i: number) => urls[i % 2] as string

    t.test('an address may ask so often and no more, wherever it asks', async (t) => {
      const from = via(randomAddress())
      for (let i = 0; i < max; i++) {
        const reply = await knock(turn(i), from)
        t.strictSame(refusalOf(reply), answered)
        const [limit, left, reset] = ['limit', 'remaining', 'reset'].map((name) =>
          reply.headers.get(`ratelimit-${name}`),
        )
        t.strictSame([limit, left], [`${max}`, `${max - 1 - i}`])
        t.match(reset, /^[1-9]\d*$/)
        t.ok(Number(reset) <= windowSeconds)
      }
      for (let i = 0; i < 4; i++) {
        const reply = await knock(turn(i), from)
        assertLimited(t, reply, `${i + 1} too many`)
        t.strictSame([reply.headers.get('ratelimit-limit'), remaining(reply)], [`${max}`, 0])
        t.equal(reply.headers.get('ratelimit-reset'), reply.headers.get('retry-after'))
      }
      t.strictSame(refusalOf(await knock(a.url, via(randomAddress()))), answered, 'another goes on')
    })

    t.test('of many requests at once exactly so many get through', async (t) => {
      const from = via(randomAddress())
      const statuses = await Promise.all(
        Array.from({ length: 30 }, async (_, i) => (await knock(turn(i), from)).status),
      )
      t.equal(statuses.filter((status) => status === 401).length, max)
      t.equal(statuses.filter((status) => status === 429).length, 30 - max)

      const user = randomUser()
      const client = randomAddress()
      const logins = await Promise.all(
        Array.from({ length: max }, async (_, i) => {
          return (await post(turn(i), '/login', user, via(client))).status
        }),
      )
      t.equal(logins.filter((status) => status === 401).length, loginMax)
      t.equal(logins.filter((status) => status === 429).length, max - loginMax)
    })

    t.test('who asked too often gets nothing that costs anything, and all that costs nothing', async (t) => {
      const client = randomAddress()
      const from = via(client)
      const { token, sid } = await registerAndLogIn(a.url)
      const user = randomUser()
      await exhaust(t, a.url, from)
      const json = { 'content-type': 'application/json' }
      const limited: [string, string, RequestInit][] = [
        ['a registration', '/register', { body: JSON.stringify(user), headers: json }],
        ['a login', '/login', { body: JSON.stringify(user), headers: json }],
        ['a login by HTTP Basic', '/login', { headers: basic(user) }],
        ['a login on an encoded path', '/%6cogin', { headers: basic(user) }],
        ['a login with a query', '/login?again', { headers: basic(user) }],
        ['a refresh', '/refresh', { body: '{"refresh_token":"x"}', headers: json }],
        ['a logout', '/logout', { headers: bearer(token) }],
        ['no body', '/register', {}],
        ['no JSON', '/login', { body: '{', headers: json }],
        ['a type of its own', '/register', { body: '<a/>', headers: { 'content-type': 'text/xml' } }],
        ['a body of 17 kB', '/login', { body: ' '.repeat(17_000), headers: json }],
        ['two members of one name', '/login', { body: '{"username":"a","username":"b"}', headers: json }],
      ]
      for (const [name, path, init] of limited) {
        const headers = { ...init.headers, ...from }
        assertLimited(t, await call(b.url, path, { method: 'POST', ...init, headers }), name)
      }

      const free: [string, number, string, string, Headers][] = [
        ['a guarded route', 200, 'GET', '/protected', bearer(token)],
        ['another', 200, 'GET', '/me', bearer(token)],
        ['the sessions', 200, 'GET', '/sessions', bearer(token)],
        ['a session that is not there', 404, 'DELETE', `/sessions/${randomUUID()}`, bearer(token)],
        ['a guarded route without a token', 401, 'GET', '/protected', {}],
        ['a guarded route with rubbish', 401, 'GET', '/protected', bearer('rubbish')],
        ['what is an admin’s', 403, 'GET', '/admin/users', bearer(token)],
        ['the keys', 200, 'GET', '/.well-known/jwks.json', {}],
        ['whether it lives', 200, 'GET', '/health/live', {}],
        ['whether it is ready', 200, 'GET', '/health/ready', {}],
        ['nothing', 404, 'GET', '/nothing', {}],
        ['a login that is not there', 404, 'POST', '/login/', basic(user)],
        ['a method that is not there', 405, 'PUT', '/login', basic(user)],
      ]
      for (const [name, status, method, path, headers] of free) {
        for (let i = 0; i <= max; i++) {
          const reply = await call(turn(i), path, { method, headers: { ...headers, ...from } })
          if (reply.status !== status || limitHeaders(reply).length > 0)
            t.fail(`${name}: ${reply.status} ${limitHeaders(reply)}`)
        }
      }
      t.equal((await getProtected(a.url, token)).body.sid, sid)
      await exhaust(t, a.url, via(randomAddress()))
    })

    t.test('what is no request counts like one', async (t) => {
      const from = via(randomAddress())
      const json = { 'content-type': 'application/json' }
      const bad: [string, RequestInit, number][] = [
        ['/register', {}, 400],
        ['/login', { headers: json }, 400],
        ['/login', { body: '{', headers: json }, 400],
        ['/register', { body: '{"username":1}', headers: json }, 400],
        ['/login', { headers: { authorization: 'Basic *' } }, 400],
        ['/refresh', { body: '[]', headers: json }, 400],
        ['/login', { body: 'a=b', headers: { 'content-type': 'application/x-www-form-urlencoded' } }, 415],
        ['/register', { body: ' '.repeat(17_000), headers: json }, 413],
      ]
      t.equal(bad.length, max)
      for (const [i, [path, init, status]] of bad.entries()) {
        const reply = await call(turn(i), path, {
          method: 'POST',
          ...init,
          headers: { ...init.headers, ...from },
        })
        t.strictSame(
          [reply.status, remaining(reply)],
          [status, max - 1 - i],
          `${path} ${JSON.stringify(init)}`,
        )
      }
      assertLimited(t, await knock(b.url, from), 'one more')
    })

    t.test('logins are counted by account and address together, however both are written', async (t) => {
      const tail = randomUUID().slice(0, 8)
      const user = { ...randomUser(), username: `straße-σίσυφος-ﬁn-${tail}` }
      const wrong = { ...user, password: randomUUID() }
      const other = randomUser()
      for (const { username, password } of [user, other])
        t.equal((await post(a.url, '/register', { username, password }, via(randomAddress()))).status, 201)
      const network = randomNetwork()
      const attempts = [
        () =>
          post(a.url, '/login', { ...wrong, username: user.username.normalize('NFD') }, via(`${network}::1`)),
        () => post(b.url, '/login', undefined, { ...basic(wrong), ...via(`${network}:abcd::2`) }),
        () => post(b.url, '/login', user, via(`${network.toUpperCase()}:1:0:0:3`)),
      ]
      t.equal(attempts.length, loginMax)
      const statuses: number[] = []
      for (const attempt of attempts) statuses.push((await attempt()).status)
      t.strictSame(statuses, [401, 401, 200], 'good and bad ones count alike')

      const before = [a, b].map(({ log }) => log.length)
      const from = via(`${network}::4`)
      const { username } = user
      for (const [name, spelling] of Object.entries({
        'as registered': username,
        'upper case': username.toUpperCase(),
        folded: `strasse-σίσυφοσ-fin-${tail}`,
        'full width': username.replace(/[a-z]/g, (c) => String.fromCodePoint(c.charCodeAt(0) + 0xfee0)),
      })) {
        const reply = await post(turn(name.length), '/login', { ...user, username: spelling }, from)
        assertLimited(t, reply, `${name}, the right password`, loginWindowSeconds)
      }
      const byBasic = await post(a.url, '/login', undefined, { ...basic(user), ...from })
      assertLimited(t, byBasic, 'by HTTP Basic, the right password', loginWindowSeconds)
      const lines = [a, b].flatMap(({ log }, i) => log.slice(before[i])).map((line) => JSON.parse(line))
      t.notOk(
        lines.some(({ audit }) => audit?.event.startsWith('login.')),
        'nobody looked at the password',
      )

      const elsewhere = via(randomAddress())
      t.equal((await post(a.url, '/login', user, elsewhere)).status, 200, 'the same account from elsewhere')
      const here = via(`${randomNetwork()}::1`)
      for (let i = 0; i < loginMax; i++) await post(b.url, '/login', wrong, here)
      assertLimited(t, await post(a.url, '/login', user, here), 'limited', loginWindowSeconds)
      t.equal((await post(a.url, '/login', other, here)).status, 200, 'another account from the same address')
    })

    t.test('a name that nobody can have is counted as it is written', async (t) => {
      const from = via(randomAddress())
      const nobody = { username: `no body ${randomUUID()}`, password: randomUUID() }
      for (let i = 0; i < loginMax; i++) t.equal((await post(turn(i), '/login', nobody, from)).status, 401)
      assertLimited(t, await post(b.url, '/login', nobody, from), 'one more', loginWindowSeconds)
      const other = { ...nobody, username: `${nobody.username}2` }
      t.equal((await post(a.url, '/login', other, from)).status, 401)
    })

    t.test('behind trusted proxies the right-most address that is none of them is the client', async (t) => {
      const client = randomAddress()
      const innocent = randomAddress()
      const spellings: [string, () => Headers][] = [
        ['alone', () => via(client)],
        ['behind a spoofed one', () => via(randomAddress(), client)],
        ['behind many spoofed ones', () => via(...Array.from({ length: 50 }, randomAddress), client)],
        ['behind a spoofed proxy', () => via('10.0.0.1', client)],
        ['behind rubbish', () => via('unknown', '', client)],
        ['before a proxy of a CIDR', () => via(randomAddress(), client, '10.255.3.4')],
        ['before a proxy of an IPv6 CIDR', () => via(client, '2001:db8:ffff:1::5')],
        ['before several', () => via(client, '2001:DB8:FFFF::', '10.0.0.1', '127.0.0.1', '::ffff:10.1.1.1')],
        [
          'with other headers',
          () => ({ ...via(client), 'x-real-ip': randomAddress(), forwarded: 'for=192.0.2.9' }),
        ],
      ]
      for (const [i, [name, headers]] of spellings.slice(0, max).entries())
        t.equal(remaining(await knock(turn(i), headers())), max - 1 - i, name)
      for (const [name, headers] of spellings) assertLimited(t, await knock(b.url, headers()), name)

      const twice = [
        'POST /logout HTTP/1.1',
        'host: x',
        `x-forwarded-for: ${innocent}`,
        `x-forwarded-for: ${client}`,
      ]
      const reply = await exchange(a.url, [...twice, 'connection: close', '', ''].join('\r\n'))
      assertLimited(t, reply, 'in two headers')
      t.equal(remaining(await knock(a.url, via(client, innocent))), max - 1, 'and nobody else pays for it')
      const beyond = via(client, '10.0.0.1', '11.0.0.1')
      t.not((await knock(a.url, beyond)).status, 429, 'what is before an unknown proxy is hearsay')
    })

    t.test('a client is a client, however its address is written', async (t) => {
      const [network, another] = [randomNetwork(), randomNetwork()]
      const [p1, p2, p3, p4] = network.split(':')
      const ipv4 = randomAddress()
      const [w = 0, x = 0, y = 0, z = 0] = ipv4.split('.').map(Number)
      const hex = `${(w * 256 + x).toString(16)}:${(y * 256 + z).toString(16)}`
      const groups = {
        'an IPv6 /64': [
          `${network}::1`,
          `${network}:ffff:ffff:ffff:ffff`,
          `${network}::`,
          `${network}:0:0:0:1`,
          `${network}:0000:0000:0000:0001`,
          `${network.toUpperCase()}:ABCD::`,
          `${p1}:0${p2}:${p3}:${p4}:1:2:3:4`,
          `${network}::192.0.2.1`,
        ],
        'an IPv4 address': [
          ipv4,
          `::ffff:${ipv4}`,
          `::FFFF:${ipv4}`,
          `0:0:0:0:0:ffff:${ipv4}`,
          `::ffff:${hex}`,
          `::FFFF:${hex.toUpperCase()}`,
          `0000:0000:0000:0000:0000:ffff:${hex}`,
          `0:0::ffff:${ipv4}`,
        ],
      }
      for (const [name, spellings] of Object.entries(groups)) {
        for (const [i, spelling] of spellings.entries())
          t.equal(remaining(await knock(turn(i), via(spelling))), max - 1 - i, `${name}: ${spelling}`)
        for (const [i, spelling] of spellings.entries())
          assertLimited(t, await knock(turn(i), via(spelling)), `${name}: ${spelling}`)
      }
      for (const other of [
        `${another}::1`,
        `${p1}:${p2}:${p3}:${(Number.parseInt(p4 ?? '', 16) ^ 1).toString(16)}::1`,
      ])
        t.equal(remaining(await knock(a.url, via(other))), max - 1, `another /64: ${other}`)
    })

    t.test(
      'a port that a proxy writes behind an address makes no other client, and rubbish is one',
      async (t) => {
        const [ipv4, network] = [randomAddress(), randomNetwork()]
        for (const spellings of [
          [ipv4, `${ipv4}:1`, `${ipv4}:65535`],
          [`${network}::1`, `[${network}::1]:1`, `[${network}::2]`],
        ]) {
          for (const [i, spelling] of spellings.entries())
            t.equal(remaining(await knock(turn(i), via(spelling))), max - 1 - i, spelling)
        }
        for (let i = 0; i < max; i++) await knock(a.url, via(`rubbish-${i}`))
        assertLimited(t, await knock(a.url, via('another-rubbish')), 'rubbish')
      },
    )

    t.test('a connection’s own address counts the same way, and only proxies speak for others', async (t) => {
      const peer = async (remoteAddress: string, headers: Headers = {}) => {
        const request: InjectOptions = { method: 'POST', url: '/logout', remoteAddress, headers }
        return Number((await a.app.inject(request)).headers['ratelimit-remaining'])
      }
      const network = randomNetwork()
      t.equal(await peer(`${network}::1`), max - 1)
      t.equal(await peer(`${network}:8000::2`), max - 2)
      t.equal(
        await peer(`${network}::1`, via(randomAddress())),
        max - 3,
        'an unknown proxy speaks for itself',
      )
      const ipv4 = randomAddress()
      t.equal(await peer(ipv4), max - 1)
      t.equal(await peer(`::ffff:${ipv4}`), max - 2, 'on a socket for both')
      for (const [i, proxy] of [
        '10.9.8.7',
        '::ffff:10.9.8.7',
        '::ffff:127.0.0.1',
        '2001:db8:ffff::7',
      ].entries())
        t.equal(await peer(proxy, via(randomAddress(), ipv4)), max - 3 - i, `through ${proxy}`)
    })

    t.test('rubbish from a trusted proxy is no fault of the service', async (t) => {
      const before = a.log.length
      const alphabet = '0123456789abcdefxX:.%/, []"\'*_-\t'
      const random = () =>
        Array.from({ length: randomInt(1, 40) }, () => alphabet[randomInt(alphabet.length)]).join('')
      const rubbish = [
        '',
        ',',
        ' , ,',
        'unknown',
        '_hidden',
        '1.2.3.4:5678',
        '[2001:db8::1]:443',
        '999.1.1.1',
        '::ffff:999.1.1.1',
        'fe80::1%eth0',
        '2001:db8::1%1.2.3.4',
        '1::%64',
        '::1::',
        '2001:db8::/32',
        '127.1',
        '0x7f000001',
        '2130706433',
        'for=1.2.3.4',
        '%00',
        '*',
        'null',
        '\u00e9\u00ff',
        '{{}}',
        'rl:address:1.2.3.4',
        'x'.repeat(12_000),
        '10.0.0.1,'.repeat(1_300),
        '1.2.3.4,',
        ...Array.from({ length: 50 }, random),
      ]
      const user = randomUser()
      for (const text of rubbish) {
        const { status } = await knock(a.url, { 'x-forwarded-for': text })
        t.ok(status === 401 || status === 429, `${status}: ${text.slice(0, 40)}`)
        const login = await post(a.url, '/login', user, { 'x-forwarded-for': text })
        t.ok(login.status === 401 || login.status === 429, `${login.status} at login: ${text.slice(0, 40)}`)
      }
      const faults = a.log.slice(before).filter((line) => JSON.parse(line).level >= 40)
      t.strictSame(faults, [])
    })

    t.test('what is told of a request names its true client', async (t) => {
      const client = `${randomNetwork()}::77`
      const user = randomUser()
      const headers = via(randomAddress(), client, '10.0.0.1')
      t.equal((await post(a.url, '/register', user, headers)).status, 201)
      t.equal((await post(a.url, '/login', user, headers)).status, 200)
      t.equal((await post(a.url, '/login', { ...user, password: 'x' }, headers)).status, 401)
      const told = a.log.map((line) => JSON.parse(line)).filter(({ address }) => address === client)
      t.strictSame(
        told.map(({ audit }) => audit.event),
        ['account.registered', 'login.succeeded', 'login.failed'],
      )
    })
  })
}

t.test('counts stand in Redis for as long as their window, without a name or a password', async (t) => {
  const { url } = await startInstance(t, { stores, env: { ...limits, ...trusted } })
  const client = randomAddress()
  const user = { username: `typed-into-the-wrong-field-${randomUUID()}`, password: randomUUID() }
  const before = new Set(await counts.keys('*'))
  for (let i = 0; i < 2; i++) t.equal((await post(url, '/login', user, via(client))).status, 401)
  const made = (await counts.keys('*')).filter((key) => !before.has(key)).sort()
  t.equal(made.length, 2)
  t.equal(made[0], `rl:address:${client}`)
  t.match(made[1], /^rl:login:[\w-]{43}$/)
  t.strictSame(await counts.mget(made), ['2', '2'])

  const windows = { address: windowSeconds, login: loginWindowSeconds }
  const keys = (await counts.keys('*')).filter((key) => key.startsWith('rl:'))
  t.ok(keys.length > 20, 'those of all tests so far')
  for (const key of keys) {
    const left = await counts.pttl(key)
    const seconds = windows[key.split(':')[1] as keyof typeof windows]
    if (!(left > 0 && left <= seconds * 1000)) t.fail(`${key} lives for ${left} ms`)
    if (/user-|typed|straße|no body/.test(key)) t.fail(`${key} names somebody`)
  }

  await exhaust(t, url, via(randomAddress()))
  await counts.del(made)
  t.equal(remaining(await knock(url, via(client))), max - 1, 'when its count is gone, a client is new')
})

t.test('after the window it goes on, in Redis and in memory', async (t) => {
  const env = {
    ...limits,
    ...trusted,
    RATE_WINDOW_SECONDS: '1',
    LOGIN_RATE_WINDOW_SECONDS: '1',
    RATE_MAX: '5',
  }
  for (const store of [{}, alone]) {
    const { url } = await startInstance(t, { stores, env: { ...env, ...store } })
    const user = randomUser()
    for (const ask of [
      (from: Headers) => knock(url, from),
      (from: Headers) => post(url, '/login', user, from),
    ]) {
      const from = via(randomAddress())
      let reply = await ask(from)
      for (let tries = 1; reply.status === 401 && tries < 50; tries++) reply = await ask(from)
      assertLimited(t, reply, 'in the window', 1)
      await eventually(t, async () => (await ask(from)).status === 401, 3_000)
    }
  }
})

t.test('with a Redis of their own, counts stand there and nowhere else', async (t) => {
  const own = await startRedis()
  t.teardown(own.stop)
  const direct = connectTo(t, own)
  const usual = { RATE_MAX: undefined, LOGIN_RATE_MAX: undefined }
  const { url } = await startInstance(t, { stores, env: { ...usual, RATE_REDIS_URL: own.url } })
  const before = await counts.keys('rl:*')

  const user = await registerAndLogIn(url)
  for (let i = 1; i < 100; i++) await logIn(url, user)
  t.pass('a hundred logins from one machine are no attack')

  const keys = (await direct.keys('*')).sort()
  t.equal(keys.length, 2)
  t.equal(keys[0], 'rl:address:127.0.0.1')
  t.strictSame(await direct.mget(keys), ['101', '100'])
  t.strictSame(
    (await counts.keys('rl:*')).filter((key) => !before.includes(key)),
    [],
  )
  t.strictSame(await direct.keys('rv:*'), [], 'and revocations do not')
  t.equal((await post(url, '/logout', undefined, bearer(user.token))).status, 204)
  t.strictSame(await direct.keys('rv:*'), [])
  t.ok(await counts.exists(`rv:s:${user.sid}`))
})

t.test('while Redis is away every instance counts for itself, and nobody waits', async (t) => {
  const own = await startRedis()
  t.teardown(own.stop)
  const env = { ...limits, ...trusted, RATE_REDIS_URL: own.url }
  const instances = [await startInstance(t, { stores, env }), await startInstance(t, { stores, env })]
  const isCounting = async ({ url }: Instance) => {
    const address = randomAddress()
    await knock(url, via(address))
    return (await withRedis(own.url, (direct) => direct.get(`rl:address:${address}`))) === '1'
  }
  for (const instance of instances) t.ok(await isCounting(instance))

  for (const signal of ['SIGKILL', 'SIGSTOP'] as const) {
    await own.kill(signal)
    const from = via(randomAddress())
    const user = randomUser()
    const took: number[] = []
    const ask = async (asking: Promise<Reply>) => {
      const timing = await timed(asking)
      took.push(timing.took)
      return timing.reply
    }
    for (const { url } of instances) {
      const statuses: number[] = []
      for (let i = 0; i <= loginMax; i++) statuses.push((await ask(post(url, '/login', user, from))).status)
      t.strictSame(statuses, [...Array(loginMax).fill(401), 429], `${signal}: logins`)
      for (let i = loginMax + 2; i <= max; i++) t.equal(remaining(await ask(knock(url, from))), max - i)
      assertLimited(t, await ask(knock(url, from)), `${signal}: one more`)
    }
    t.ok(Math.max(...took) < 1_000, `${signal}: the longest took ${Math.round(Math.max(...took))} ms`)
    if (signal === 'SIGKILL') await own.start()
    else await own.kill('SIGCONT')
    for (const instance of instances) await eventually(t, () => isCounting(instance))
  }
})

t.test('a Redis that answers with errors is as good as none', async (t) => {
  const own = await startRedis()
  t.teardown(own.stop)
  const { url } = await startInstance(t, { stores, env: { ...limits, ...trusted, RATE_REDIS_URL: own.url } })
  const direct = connectTo(t, own)
  await direct.config('SET', 'maxmemory', '1')
  await exhaust(t, url, via(randomAddress()))
  t.equal(await direct.dbsize(), 0, 'it kept nothing')
})

t.test('nobody is trusted unless somebody says so', async (t) => {
  const { url, log } = await startInstance(t, { stores, env: { ...limits, ...alone } })
  const names = [
    'x-forwarded-for',
    'x-real-ip',
    'x-client-ip',
    'true-client-ip',
    'cf-connecting-ip',
    'x-cluster-client-ip',
    'x-original-forwarded-for',
    'x-forwarded',
  ]
  const spoof = (name: string) => ({ [name]: randomAddress() })
  for (const [i, name] of names.slice(0, max).entries())
    t.equal(remaining(await knock(url, spoof(name))), max - 1 - i, name)
  for (const name of names) assertLimited(t, await knock(url, spoof(name)), name)
  assertLimited(t, await knock(url, { forwarded: `for=${randomAddress()};proto=https` }), 'forwarded')
  const all = Object.fromEntries(names.map((name) => [name, randomAddress()]))
  assertLimited(t, await post(url, '/login', randomUser(), all), 'all of them, at login')

  const lines = log.map((line) => JSON.parse(line)).filter(({ address }) => address !== undefined)
  t.ok(lines.every(({ address }) => address === '127.0.0.1'))
})

t.test('a login limit cannot be spoofed away either, and what is told names the connection', async (t) => {
  const { url, log } = await startInstance(t, { stores, env: { ...limits, ...alone } })
  const user = randomUser()
  for (let i = 0; i < loginMax; i++)
    t.equal((await post(url, '/login', user, via(randomAddress()))).status, 401)
  assertLimited(t, await post(url, '/login', user, via(randomAddress())), 'one more', loginWindowSeconds)
  const told = log.map((line) => JSON.parse(line)).filter(({ audit }) => audit?.event === 'login.failed')
  t.strictSame(
    told.map(({ address }) => address),
    Array(loginMax).fill('127.0.0.1'),
  )
})

t.test('forged tokens use up a budget of their address, and then nothing more of ours', async (t) => {
  const env = { ...trusted, RATE_MAX: '0', FORGERY_RATE_MAX: '5', FORGERY_RATE_WINDOW_SECONDS: '2' }
  const { url } = await startInstance(t, { stores, env })
  const [known, unknown] = [await registerAndLogIn(url), await registerAndLogIn(url)]
  const ask = (token: string, from: Headers) =>
    call(url, '/protected', { headers: { ...bearer(token), ...from } })
  const forge = (i: number) => known.token.replace(/.{10}$/, `${i}`.padStart(10, 'A'))
  const [attacker, other] = [via(randomAddress()), via(randomAddress())]
  t.equal((await ask(known.token, attacker)).status, 200)

  const ofNoKey = known.token.replace(
    /^[^.]+/,
    Buffer.from('{"alg":"ES256","kid":"x","typ":"at+jwt"}').toString('base64url'),
  )
  for (const garbage of ['x', 'x.y.z', known.token.slice(1), ofNoKey, `${known.token}.`])
    for (let i = 0; i < 3; i++)
      t.strictSame(
        refusalOf(await ask(garbage, attacker)),
        refusal('token_invalid'),
        'costs no signature check',
      )
  for (let i = 0; i < 5; i++) t.strictSame(refusalOf(await ask(forge(i), attacker)), refusal('token_invalid'))
  for (const [name, token] of Object.entries({ forged: forge(6), 'not seen before': unknown.token })) {
    for (const reply of [
      await ask(token, attacker),
      await post(url, '/logout', undefined, { ...bearer(token), ...attacker }),
    ]) {
      const retryAfter = reply.headers.get('retry-after') ?? ''
      t.match(retryAfter, /^[12]$/, name)
      t.strictSame(refusalOf(reply), refusal('rate_limited', undefined, retryAfter), name)
    }
  }
  t.equal(
    (await ask(known.token, attacker)).status,
    200,
    'what was verified before costs nothing, and goes on',
  )
  for (const spaces of [2, 15_000]) {
    const spaced = await ask(`${' '.repeat(spaces)}${known.token}`, attacker)
    t.equal(spaced.status, 200, 'however it is spaced')
  }
  t.strictSame(refusalOf(await ask(forge(7), other)), refusal('token_invalid'), 'others have their own')
  t.equal((await ask(unknown.token, other)).status, 200)
  t.strictSame(
    refusalOf(await ask('', attacker)),
    refusal('malformed_authorization'),
    'and no token costs nothing',
  )

  const fresh = await registerAndLogIn(url)
  await eventually(t, async () => (await ask(fresh.token, attacker)).status === 200)
})

t.test('0 is no limit, of the one or of the other', async (t) => {
  const start = (env: Environment) => startInstance(t, { stores, env: { ...limits, ...trusted, ...env } })
  const user = randomUser()
  const wrong = (url: string, from: Headers) => post(url, '/login', user, from)

  const noAddress = await start({ RATE_MAX: '0' })
  let from = via(randomAddress())
  for (let i = 0; i < 3 * max; i++) {
    const reply = await knock(noAddress.url, from)
    t.strictSame([refusalOf(reply), limitHeaders(reply)], [answered, []])
  }
  for (let i = 0; i < loginMax; i++) t.equal((await wrong(noAddress.url, from)).status, 401)
  assertLimited(t, await wrong(noAddress.url, from), 'logins', loginWindowSeconds)

  const noLogin = await start({ LOGIN_RATE_MAX: '0' })
  from = via(randomAddress())
  for (let i = 0; i < max; i++) t.equal((await wrong(noLogin.url, from)).status, 401)
  assertLimited(t, await wrong(noLogin.url, from), 'the address')
})

t.test('a request over the limit spends no hashing', async (t) => {
  // One hash at a time, that takes long, and nobody may wait: whoever needs one meanwhile is told so.
  const hashing = { ARGON2_PASSES: '1000', ARGON2_CONCURRENCY: '1', ARGON2_QUEUE_MAX: '0' }
  const env = { ...limits, ...trusted, ...hashing, LOGIN_RATE_MAX: '1' }
  const { url } = await startInstance(t, { stores, env })
  const user = randomUser()
  const [here, elsewhere] = [via(randomAddress()), via(randomAddress())]
  await exhaust(t, url, elsewhere)

  let isHashing = true
  const slow = post(url, '/login', user, here).finally(() => {
    isHashing = false
  })
  const another = () => post(url, '/login', randomUser(), via(randomAddress()))
  // It is ahead of the others.
  const isCounted = (client: pg.Client) =>
    client.query(`select from guesses where account = sha256($1::bytea)`, [user.username])
  await withClient(postgres.env.DATABASE_URL as string, (client) =>
    eventually(t, async () => (await isCounted(client)).rowCount === 1),
  )
  await eventually(t, async () => (await another()).body.code === 'overloaded')

  assertLimited(t, await post(url, '/login', user, here), 'the same account', loginWindowSeconds)
  assertLimited(
    t,
    await post(url, '/login', undefined, { ...basic(user), ...here }),
    'by Basic',
    loginWindowSeconds,
  )
  assertLimited(t, await post(url, '/login', randomUser(), elsewhere), 'the address, at login')
  assertLimited(t, await post(url, '/register', randomUser(), elsewhere), 'the address, at registration')
  for (const [method, path, status] of [
    ['GET', '/login', 405],
    ['PUT', '/register', 405],
    ['POST', '/login/', 404],
    ['POST', '//login', 404],
  ] as const) {
    const body = method === 'GET' ? {} : { body: JSON.stringify(user) }
    const headers = { 'content-type': 'application/json', ...elsewhere }
    const reply = await call(url, path, { method, headers, ...body })
    t.equal(reply.status, status, `${method} ${path} is no way around`)
  }
  t.strictSame(refusalOf(await another()), refusal('overloaded'), 'who is under it needs one')
  t.ok(isHashing, 'all the while')
  t.strictSame(refusalOf(await slow), refusal('invalid_credentials'))
})
