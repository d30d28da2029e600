/** Accounts: one name one person, hashing that never takes the process down, and logins that lose every race they should. */
import argon2 from 'argon2'
import t from 'tap'
import { createPasswords } from '../src/accounts/passwords.ts'
import { canonicalUsername } from '../src/accounts/usernames.ts'
import {
  embedded,
  postgresAndRedis,
  randomUser,
  type Stores,
  startInstance,
  withClient,
} from './fixtures/app.ts'
import { call, getProtected, logIn, post, registerAndLogIn } from './fixtures/client.ts'

t.test('who stood in line goes on with others, eight at most, and nobody is left behind', async (t) => {
  const cheap = { memoryKib: 1024, passes: 1, parallelism: 1 }
  const passwords = await createPasswords({ ...cheap, concurrency: 1, queueMax: 40 })
  const hash = await passwords.hash('correct horse')
  let tick = 0
  let counting = true
  const count = () => {
    tick++
    if (counting) setImmediate(count)
  }
  setImmediate(count)

  const ticks: number[] = []
  const results = await Promise.all(
    Array.from({ length: 30 }, async (_, i) => {
      const tried = passwords.verify(i % 5 === 4 ? 'no hash' : hash, i % 2 ? 'wrong' : 'correct horse')
      const result = await tried.catch(() => 'failed')
      ticks.push(tick)
      return result
    }),
  )
  counting = false
  t.strictSame(
    results,
    results.map((_, i) => (i % 5 === 4 ? 'failed' : i % 2 === 0)),
  )
  const sizes = [...new Set(ticks)].map((one) => ticks.filter((other) => other === one).length)
  t.strictSame(sizes.slice(0, 3), [8, 8, 7], 'as many as are behind, and eight at most')
  t.equal(await passwords.verify(hash, 'correct horse'), true, 'alone')
})

t.test('a username has one canonical form', async (t) => {
  const same: [string, string][] = [
    ['Ada', 'ada'],
    ['ＡＤＡ', 'ada'],
    ['STRASSE', 'straße'],
    ['STRAẞE', 'strasse'],
    ['ΟΔΥΣΣΕΥΣ', 'οδυσσευς'],
    ['ﬁsh', 'fish'],
    ['e\u0301lan', 'élan'],
    ['K\u00ebvin', '\u212A\u00cbVIN'],
  ]
  for (const [one, other] of same)
    t.equal(canonicalUsername(one), canonicalUsername(other), `${one} is ${other}`)

  const refused = {
    'too short': 'ab',
    'too long': 'a'.repeat(65),
    empty: '',
    NUL: 'ada\0',
    control: 'ada\u0007',
    'line break': 'ad\na',
    'lone surrogate': 'ada\ud800',
    'right-to-left override': 'ada\u202e',
    'zero-width space': 'ad\u200ba',
    'zero-width joiner': 'ad\u200da',
    'soft hyphen': 'ad\u00ada',
    'Hangul filler': 'ad\u3164a',
    'variation selector': 'ada\ufe0f',
    'byte order mark': '\ufeffada',
    space: 'ada lovelace',
    'no-break space': 'ada\u00a0',
    colon: 'ada:x',
    'full-width colon': 'ada\uff1ax',
    tag: 'ada\u{e0041}',
    'private use': 'ada\ue000',
    'shorter once folded': 'a\u0308b',
  }
  for (const [why, name] of Object.entries(refused)) t.equal(canonicalUsername(name), undefined, why)

  t.equal(canonicalUsername('a'.repeat(64)), 'a'.repeat(64))
  t.equal(canonicalUsername('𝒜'.repeat(64)), 'a'.repeat(64), 'lengths count code points')
  t.equal(canonicalUsername('小林さん'), '小林さん')
})

t.test('the canonical form of a canonical form is itself, for every code point there is', async (t) => {
  const unstable: string[] = []
  for (let point = 0; point <= 0x10ffff; point++) {
    const canonical = canonicalUsername(`ab${String.fromCodePoint(point)}yz`)
    if (canonical !== undefined && canonicalUsername(canonical) !== canonical)
      unstable.push(point.toString(16))
  }
  t.same(unstable, [])
})

t.test(
  'what is tried first cannot be chosen as a password, and the refusal says why and what would do',
  async (t) => {
    const { url } = await startInstance(t, {
      stores: await embedded(t),
      env: { SERVICE_NAME: 'Ordering', PASSWORD_MIN_LENGTH: '8' },
    })
    const register = (password: string, email?: string) => {
      const { username } = randomUser()
      return post(url, '/register', { username: `grace-${username}`, password, ...(email && { email }) })
    }
    const refused: Record<string, [reason: RegExp, password: string, email?: string]> = {
      'a common one': [/tried first/, 'trustno1'],
      'a common one in another case': [/tried first/, 'TrustNo1'],
      'a common one in full width': [/tried first/, 'ｔｒｕｓｔｎｏ１'],
      'a long common one': [/tried first/, '1qaz2wsx3edc4rfv'],
      'a common one with digits and signs around it': [/tried first/, '!!Password1234567890'],
      'the alphabet': [/tried first/, 'abcdefghijklmnop'],
      'the rows of a keyboard': [/tried first/, 'Qwertyuiopasdfghjkl1'],
      'digits in their order': [/tried first/, '123456789012345'],
      'a word twice, and a sign': [/repeated/, 'iloveyouiloveyou!'],
      'one letter': [/repeated/, 'aaaaaaaaaaaaaaaaaaaa'],
      'a short word, repeated': [/repeated/, 'hunter2hunter2Hunter2'],
      'the name in the address': [
        /name in your e-mail address/,
        'for Hopper only 1906',
        'hopper@navy.example',
      ],
      'the name of the service': [/name of this service/, 'my ORDERING password'],
      'too short, in characters that are long': [/at least 8 characters/, '🔑🔑🔒🔒🚪🚪🗝'],
    }
    for (const [why, [reason, password, email]] of Object.entries(refused)) {
      const { status, body } = await register(password, email)
      t.match([status, body.code], [422, 'weak_password'], why)
      t.match(body.detail, reason, why)
      t.match(body.detail, /A few words that only you would put together will do\.$/, why)
      t.notOk(body.detail.includes(password), 'and does not say it again')
    }
    const { username } = randomUser()
    const named = await post(url, '/register', { username, password: `Here is ${username.toUpperCase()}!` })
    t.match(named.body, { code: 'weak_password', detail: /your username/ })

    const taken = {
      'a common one with something to it': 'trustno1 but me',
      'digits in no order': '739182645019283',
      'only small letters': 'qkdnwmzpt',
      'a long word, repeated': 'abracadabra-abracadabra-',
      'a letter that is an address too': 'plain as it is',
    }
    for (const [why, password] of Object.entries(taken))
      t.equal((await register(password, 'a@navy.example')).status, 201, why)
    t.equal((await register('x'.repeat(257))).status, 400, 'too long is no weakness')
  },
)

t.test('hashing', async (t) => {
  const stores = await postgresAndRedis(t)

  t.test(
    'is Argon2id with the parameters of the settings, and is renewed at login when they were raised',
    async (t) => {
      const before = await startInstance(t, { stores })
      const user = randomUser()
      t.equal((await post(before.url, '/register', user)).status, 201)
      t.match(await storedHash(stores, user.username), /^\$argon2id\$v=19\$m=1024,t=1,p=1\$/)

      const raised = await startInstance(t, {
        stores,
        env: { ARGON2_MEMORY_KIB: '2048', ARGON2_PASSES: '2' },
      })
      const wrong = await post(raised.url, '/login', { ...user, password: `${user.password}x` })
      t.equal(wrong.status, 401)
      t.match(await storedHash(stores, user.username), /m=1024,t=1/, 'not for a wrong password')

      // Twenty at once: the one that renews the hash must not turn the others away.
      const logins = await Promise.all(Array.from({ length: 20 }, () => post(raised.url, '/login', user)))
      t.same(
        logins.map(({ status }) => status),
        Array(20).fill(200),
      )
      const renewed = await storedHash(stores, user.username)
      t.match(renewed, /m=2048,t=2/)
      t.ok(await argon2.verify(renewed, user.password))
      await logIn(before.url, user)
      t.equal(await storedHash(stores, user.username), renewed, 'settings that are lower weaken nobody')
    },
  )

  t.test(
    'happens so many at a time; who comes when the queue is full waits elsewhere, and nobody else notices',
    async (t) => {
      const { url } = await startInstance(t, {
        stores,
        env: {
          ARGON2_MEMORY_KIB: '65536',
          // So long that all are there before the first one is done.
          ARGON2_PASSES: '12',
          ARGON2_CONCURRENCY: '1',
          ARGON2_QUEUE_MAX: '3',
        },
      })
      const { token, username, password } = await registerAndLogIn(url)
      const known = Array.from({ length: 10 }, () => post(url, '/login', { username, password }))
      const unheardOf = Array.from({ length: 10 }, () => post(url, '/login', randomUser()))
      const bystanders = await Promise.all(Array.from({ length: 20 }, () => getProtected(url, token)))
      t.ok(bystanders.every(({ status }) => status === 200))

      const replies = await Promise.all([...known, ...unheardOf])
      t.ok(
        (await Promise.all(unheardOf)).some(({ status }) => status === 503),
        'nobody takes a turn like anybody',
      )
      const surplus = replies.filter(({ status }) => status === 503)
      t.equal(
        surplus.length,
        16,
        'one at work, three in the queue; a name that nobody has takes a turn like any other',
      )
      for (const { headers, body } of surplus) {
        t.equal(body.code, 'overloaded')
        t.equal(headers.get('retry-after'), '1')
      }
      await logIn(url, { username, password })
    },
  )
})

t.test('a login under way loses against what happens to its account meanwhile', async (t) => {
  const stores = await postgresAndRedis(t)
  const { url } = await startInstance(t, { stores })
  const otherHash = await argon2.hash('another password altogether', {
    memoryCost: 1024,
    timeCost: 1,
    parallelism: 1,
  })
  const changes = {
    'a password change': `update users set generation = generation + 1, password_hash = '${otherHash}'`,
    'a new hash alone': `update users set password_hash = '${otherHash}'`,
    'a ban': `update users set generation = generation + 1, status = 'disabled'`,
    'a ban that leaves the generation': `update users set status = 'disabled'`,
    'a deletion': 'delete from users',
  }
  for (const [what, change] of Object.entries(changes)) {
    const user = randomUser()
    t.equal((await post(url, '/register', user)).status, 201)
    const reply = await duringChange(stores, `${change} where username = '${user.username}'`, () =>
      post(url, '/login', user),
    )
    t.match(reply, { status: 401, body: { code: 'invalid_credentials' } }, what)
  }

  const user = randomUser()
  t.equal((await post(url, '/register', user)).status, 201)
  const logins = await duringChange(
    stores,
    `update users set generation = 2 where username = '${user.username}'`,
    () => post(url, '/login', user),
  )
  t.equal(logins.status, 200, 'a change that leaves the password alone')
  const [, claims] = logins.body.access_token.split('.')
  t.match(
    JSON.parse(Buffer.from(claims, 'base64url').toString()),
    { ver: 2 },
    'only makes it carry the new generation',
  )
})

t.test('a login that waited goes on, whatever the isolation that the database is set to', async (t) => {
  for (const isolation of ['repeatable read', 'serializable']) {
    const stores = await postgresAndRedis(t)
    await withClient(stores.env.DATABASE_URL as string, async (client) => {
      const { rows } = await client.query('select current_database() as name')
      await client.query(`alter database ${rows[0]?.name} set default_transaction_isolation = '${isolation}'`)
    })
    const { url } = await startInstance(t, { stores })
    const user = randomUser()
    t.equal((await post(url, '/register', user)).status, 201)
    const reply = await duringChange(
      stores,
      `update users set roles = '{editor}' where username = '${user.username}'`,
      () => post(url, '/login', user),
    )
    t.equal(reply.status, 200, isolation)
    const [, claims] = reply.body.access_token.split('.')
    t.strictSame(JSON.parse(Buffer.from(claims, 'base64url').toString()).roles, ['editor'], isolation)
  }
})

t.test('a disabled account is told nothing that a wrong password is not', async (t) => {
  const stores = await postgresAndRedis(t)
  const { url } = await startInstance(t, { stores })
  const user = randomUser()
  await post(url, '/register', user)
  await withClient(stores.env.DATABASE_URL as string, (c) => c.query(`update users set status = 'disabled'`))
  const disabled = await post(url, '/login', user)
  const wrong = await post(url, '/login', { ...user, password: 'something else entirely' })
  const nobody = await post(url, '/login', randomUser())
  for (const { status, body } of [disabled, wrong, nobody]) {
    t.equal(status, 401)
    t.same({ ...body, request_id: '' }, { ...wrong.body, request_id: '' })
  }
  t.equal((await call(url, '/health/live')).status, 200)
})

/** Changes an account between the moment at which a login has checked the password and the one at which it takes the row. */
async function duringChange<T>(stores: Stores, change: string, login: () => Promise<T>): Promise<T> {
  return await withClient(stores.env.DATABASE_URL as string, async (client) => {
    await client.query('begin')
    await client.query(change)
    const reply = login()
    await withClient(stores.env.DATABASE_URL as string, async (watcher) => {
      for (const deadline = Date.now() + 1_500; Date.now() < deadline; ) {
        const { rowCount } = await watcher.query(
          `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
        )
        if (rowCount) break
      }
    })
    await client.query('commit')
    return await reply
  })
}

async function storedHash(stores: Stores, username: string): Promise<string> {
  const { rows } = await withClient(stores.env.DATABASE_URL as string, (client) =>
    client.query<{ password_hash: string }>('select password_hash from users where username = $1', [
      username,
    ]),
  )
  return rows[0]?.password_hash ?? ''
}
