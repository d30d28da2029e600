/** What admins do to accounts, over HTTP and from a shell: it is done at once, everywhere, and never to the last of them. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeJwt } from 'jose'
import t, { type Test } from 'tap'
import { randomUser } from './fixtures/app.ts'
import {
  getProtected,
  type LoggedIn,
  logIn,
  post,
  type Reply,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { ensurePasslib, python } from './fixtures/install.ts'
import { type Ask, makeAdmin, type Pair, startPair } from './fixtures/pair.ts'
import { runCli } from './fixtures/process.ts'

interface World extends Pair {
  admin: LoggedIn
  ask: Ask
}

async function world(t: Test): Promise<World> {
  const pair = await startPair(t)
  return { ...pair, ...(await makeAdmin(pair)) }
}

async function assertOver(t: Test, { a, b }: World, user: Omit<LoggedIn, 'id'>, name: string): Promise<void> {
  for (const { url } of [a, b]) {
    t.strictSame(refusalOf(await getProtected(url, user.token)), refusal('token_revoked'), name)
    t.strictSame(refusalOf(await refresh(url, user.refreshToken)), refusal('refresh_token_invalid'), name)
  }
}

async function assertGoesOn(
  t: Test,
  { a, b }: World,
  user: Omit<LoggedIn, 'id'>,
  name: string,
): Promise<void> {
  for (const { url } of [a, b]) t.equal((await getProtected(url, user.token)).status, 200, name)
}

t.test('an account that is made for somebody is theirs', async (t) => {
  const { a, ask } = await world(t)
  const user = { ...randomUser(), email: 'ada@example.org', roles: ['editor', 'author'] }
  const { status, headers, body } = await ask('POST', '/users', user)
  t.equal(status, 201)
  t.equal(headers.get('cache-control'), 'no-store')
  const { id, created_at, ...told } = body
  t.strictSame(told, {
    username: user.username,
    email: user.email,
    email_verified: false,
    roles: ['author', 'editor'],
    status: 'active',
  })
  const { token } = await logIn(a.url, user)
  t.match(decodeJwt(token), { sub: id, roles: ['author', 'editor'] })
  t.strictSame((await ask('GET', `/users/${id}`)).body, body)

  t.strictSame(refusalOf(await ask('POST', '/users', user)), refusal('username_taken'))
  t.match((await ask('POST', '/users', { ...randomUser(), password: 'passwordpassword' })).body, {
    code: 'weak_password',
  })
  const either = refusal('invalid_request', 'Send a password, or the hash of one.')
  const { username } = randomUser()
  t.strictSame(refusalOf(await ask('POST', '/users', { username })), either)
  const password_hash = '$2b$04$3H6pWtXpzhtx7UM9mEhuvuqkF1v1n7d/7MBkn2SY7YpAU4l/RFqdm'
  t.strictSame(refusalOf(await ask('POST', '/users', { ...randomUser(), password_hash })), either)
  for (const smuggled of [{ roles: ['admin'] }, { id }, { password_hash }, { status: 'active' }])
    t.equal(
      (await post(a.url, '/register', { ...randomUser(), ...smuggled })).status,
      400,
      'nobody makes it their own',
    )
})

// Whoever has no passlib can do without; CI cannot.
const withoutPasslib = ensurePasslib()
const skip = process.env.CI === 'true' ? false : (withoutPasslib ?? false)

t.test(
  'who comes from another system logs in with the password they have, and is hashed by Argon2id from then on',
  { skip },
  async (t) => {
    const { a, ask, query } = await world(t)
    const password = 'påss wörd \u{1F511}'
    const hashes: Record<string, string> = JSON.parse(
      execFileSync(python, ['-c', makeHashes], { encoding: 'utf8', input: JSON.stringify(password) }),
    )
    t.equal(Object.keys(hashes).length, 12)
    const storedHash = async (id: string) =>
      (await query('select password_hash from users where id = $1', [id]))[0]?.password_hash as string
    for (const [name, password_hash] of Object.entries(hashes)) {
      const { username } = randomUser()
      const { status, body } = await ask('POST', '/users', { username, password_hash })
      t.equal(status, 201, name)
      for (const wrong of [`${password}x`, password.slice(1), ''])
        t.equal((await post(a.url, '/login', { username, password: wrong })).status, 401, name)
      t.equal(await storedHash(body.id), password_hash, `${name}: a wrong one changes nothing`)
      for (const _time of ['first', 'second'])
        t.equal((await post(a.url, '/login', { username, password })).status, 200, name)
      t.match(await storedHash(body.id), /^\$argon2id\$v=19\$m=1024,t=1,p=1\$/, name)
    }
  },
)

/** By the libraries themselves; Debian's Werkzeug writes no scrypt yet, which hashlib makes in its form. */
const makeHashes = `
import hashlib, json, sys
from passlib import hash
from werkzeug.security import generate_password_hash
password = json.load(sys.stdin)
salt = 'lvnBIVY3XHYp8uOS'
scrypt = hashlib.scrypt(password.encode(), salt=salt.encode(), n=32768, r=8, p=1, maxmem=2**26)
json.dump({
  'Werkzeug': generate_password_hash(password),
  'Werkzeug, sha1': generate_password_hash(password, 'pbkdf2:sha1:1000'),
  'Werkzeug, sha512': generate_password_hash(password, 'pbkdf2:sha512:1000', 24),
  'Werkzeug, scrypt': f'scrypt:32768:8:1\${salt}\${scrypt.hex()}',
  'bcrypt': hash.bcrypt.using(rounds=5).hash(password),
  'bcrypt, 2a': hash.bcrypt.using(rounds=5, ident='2a').hash(password),
  'bcrypt, as PHP names it': hash.bcrypt.using(rounds=5, ident='2y').hash(password),
  'passlib, sha1': hash.pbkdf2_sha1.using(rounds=1000).hash(password),
  'passlib, sha256': hash.pbkdf2_sha256.using(rounds=1000).hash(password),
  'passlib, sha512': hash.pbkdf2_sha512.using(rounds=1000).hash(password),
  'passlib, scrypt': hash.scrypt.using(rounds=10).hash(password),
  'passlib, no salt': hash.pbkdf2_sha256.using(rounds=1000, salt=b'').hash(password),
}, sys.stdout)
`

t.test('a hash that cannot be checked, or only at a price, is not taken', async (t) => {
  const { ask } = await world(t)
  const b53 = 'H6pWtXpzhtx7UM9mEhuvuqkF1v1n7d/7MBkn2SY7YpAU4l/RFqdmx'
  const hex = 'ab'.repeat(32)
  const refused = {
    'a password': 'correct horse battery staple',
    nothing: '',
    MD5: '5f4dcc3b5aa765d61d8327deb882cf99',
    'crypt, SHA-512': `$6$saltsalt$${'a'.repeat(86)}`,
    'bcrypt of 2^17': `$2b$17$${b53}`,
    'bcrypt of 2^3': `$2b$03$${b53}`,
    'bcrypt, cut off': `$2b$05$${b53.slice(1)}`,
    'PBKDF2 of six million': `pbkdf2:sha256:6000000$salt$${hex}`,
    'PBKDF2 of nothing': `pbkdf2:sha256:0$salt$${hex}`,
    'PBKDF2 by MD5': `pbkdf2:md5:1000$salt$${hex}`,
    'PBKDF2 with half a byte': `pbkdf2:sha256:1000$salt$${hex}a`,
    'scrypt of 512 MiB': `scrypt:524288:8:1$salt$${hex}`,
    'scrypt of no power of two': `scrypt:32767:8:1$salt$${hex}`,
    'scrypt of 17 lanes': `scrypt:1024:8:17$salt$${hex}`,
    'scrypt that no library makes': `scrypt:65536:1:1$salt$${hex}`,
    'Argon2 of 1 KiB': '$argon2id$v=19$m=1,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA',
    'Argon2 of nothing': '$argon2id$v=19$m=0,t=0,p=0$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA',
    'Argon2 of lanes that share too little':
      '$argon2id$v=19$m=64,t=1,p=16$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA',
    'Argon2 without a salt': '$argon2id$v=19$m=1024,t=1,p=1$YQ$aGFzaGhhc2hoYXNoaGFzaA',
    'scrypt of 2^99': `$scrypt$ln=99,r=8,p=1$c2FsdA$${'a'.repeat(43)}`,
    'Argon2 of 1 GiB': '$argon2id$v=19$m=1048576,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA',
    'Argon2 of a hundred passes': '$argon2id$v=19$m=1024,t=100,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA',
  }
  for (const [why, password_hash] of Object.entries(refused)) {
    const { username } = randomUser()
    const { status, body } = await ask('POST', '/users', { username, password_hash })
    t.match([status, body.code], [400, 'invalid_request'], why)
  }
})

t.test('accounts are found by how they begin, by role and by status, a page at a time', async (t) => {
  const { ask, query } = await world(t)
  await query(
    `insert into users (id, username, email, password_hash, roles, status, created_at)
      select gen_random_uuid(), 'crowd-' || lpad(n::text, 3, '0'), 'p' || n || '@example.org', 'x',
        case when n % 50 = 0 then '{editor}' else '{}' end::text[], case when n % 40 = 0 then 'disabled' else 'active' end, now()
      from generate_series(1, 230) n`,
  )
  const find = async (filter: Record<string, string>) => {
    const names: string[] = []
    let pages = 0
    for (let cursor: string | undefined = ''; cursor !== undefined; pages++) {
      const search = new URLSearchParams({ ...filter, ...(cursor && { cursor }) })
      const { status, body } = await ask('GET', `/users?${search}`)
      t.equal(status, 200)
      names.push(...body.users.map(({ username }: { username: string }) => username))
      cursor = body.next_cursor
    }
    return { names, pages }
  }
  const all = await find({ query: 'CROWD-' })
  t.equal(all.names.length, 230)
  t.strictSame(all.names, all.names.toSorted())
  t.equal(all.pages, 3)
  t.strictSame((await find({ query: 'crowd-22' })).names.length, 10)
  t.strictSame((await find({ query: 'P17@' })).names, ['crowd-017'])
  t.strictSame((await find({ role: 'editor' })).names, ['crowd-050', 'crowd-100', 'crowd-150', 'crowd-200'])
  t.strictSame((await find({ role: 'editor', status: 'disabled' })).names, ['crowd-200'])
  t.strictSame((await find({ query: 'crowd-1', status: 'disabled' })).names, ['crowd-120', 'crowd-160'])
  for (const wildcard of ['%', '_rowd', 'crowd\\', "' or true --"])
    t.strictSame((await find({ query: wildcard })).names, [], wildcard)
  for (const wrong of ['query=', 'role=A%20b', 'status=closed', 'name=x', 'query=%00'])
    t.equal((await ask('GET', `/users?${wrong}`)).status, 400, wrong)
})

t.test('who is disabled is out at once, everywhere, and cannot come in', async (t) => {
  const w = await world(t)
  const { a, ask } = w
  const user = await registerAndLogIn(a.url)
  const { status, body } = await ask('PUT', `/users/${user.id}/status`, { status: 'disabled' })
  t.match([status, body.status], [200, 'disabled'])
  await assertOver(t, w, user, 'disabled')
  const right = await post(a.url, '/login', { username: user.username, password: user.password })
  t.strictSame(refusalOf(right), refusal('invalid_credentials'))

  t.equal((await ask('PUT', `/users/${user.id}/status`, { status: 'active' })).body.status, 'active')
  await assertOver(t, w, user, 'what has ended stays so')
  await assertGoesOn(t, w, await logIn(a.url, user), 'enabled')
})

t.test('who is deleted is out at once, and whoever takes the name is somebody else', async (t) => {
  const w = await world(t)
  const { a, ask, query } = w
  const user = await registerAndLogIn(a.url)
  const { status, body } = await ask('DELETE', `/users/${user.id}`)
  t.strictSame([status, body], [204, ''])
  await assertOver(t, w, user, 'deleted')
  for (const table of ['users where id', 'sessions where user_id'])
    t.strictSame(await query(`select 1 from ${table} = $1`, [user.id]), [])
  t.strictSame(refusalOf(await ask('GET', `/users/${user.id}`)), refusal('not_found'))
  const { username, password } = user
  const next = await registerAndLogIn(a.url, { username, password })
  t.not(next.id, user.id)
  await assertGoesOn(t, w, next, 'somebody else')
  await assertOver(t, w, user, 'and it stays so')
})

t.test('somebody is an admin, whatever admins do to each other', async (t) => {
  const w = await world(t)
  const { a, admin, ask, query } = w
  const others = async () =>
    (await query(`select id from users where roles @> '{admin}' and status = 'active'`)).length
  for (const [method, path, body] of [
    ['PUT', 'status', { status: 'disabled' }],
    ['DELETE', '', undefined],
    ['PUT', 'roles', { roles: [] }],
  ] as const) {
    const last = await ask(method, `/users/${admin.id}/${path}`.replace(/\/$/, ''), body)
    t.strictSame(refusalOf(last), refusal('last_admin'), `${method} ${path}`)
  }
  await assertGoesOn(t, w, admin, 'nothing has ended')

  const second = await registerAndLogIn(a.url)
  await query(`update users set roles = '{admin}' where id = $1`, [second.id])
  Object.assign(second, await logIn(a.url, second))
  const replies = await Promise.all([
    ask('DELETE', `/users/${second.id}`, undefined, admin.token),
    ask('PUT', `/users/${admin.id}/status`, { status: 'disabled' }, second.token),
  ])
  t.equal(replies.filter(({ status }) => status < 300).length, 1, 'one of two is left')
  t.equal(await others(), 1)
})

t.test(
  'what somebody was issued ends by one token, by one session or as a whole, for a reason, and is told before',
  async (t) => {
    const w = await world(t)
    const { a, ask, query } = w
    const user = await registerAndLogIn(a.url)
    const [one, two] = [await logIn(a.url, user), await logIn(a.url, user)]
    const stranger = await registerAndLogIn(a.url)

    const planned = await ask('POST', `/users/${user.id}/revoke`, { dry_run: true })
    t.equal(planned.status, 200)
    const idsOf = ({ body }: Reply) => body.sessions.map(({ id }: { id: string }) => id).sort()
    t.strictSame(idsOf(planned), [user.sid, one.sid, two.sid].sort())
    t.match(planned.body.sessions[0], { device: String, address: String, last_used_at: String })
    for (const session of [user, one, two, stranger]) await assertGoesOn(t, w, session, 'nothing has ended')

    const { jti = '' } = decodeJwt(one.token)
    t.equal((await ask('DELETE', `/tokens/${jti.toUpperCase()}?reason=seen%20in%20a%20log`)).status, 204)
    t.strictSame(refusalOf(await getProtected(w.b.url, one.token)), refusal('token_revoked'), 'one token')
    const renewed = await refresh(w.b.url, one.refreshToken)
    t.equal(renewed.status, 200, 'whose session goes on')
    one.refreshToken = renewed.body.refresh_token
    t.match(await query(`select reason from revocations where subject = $1`, [jti]), [
      { reason: 'seen in a log' },
    ])

    const reason = 'laptop stolen, ticket #4'
    const ended = await ask('POST', `/users/${user.id}/revoke`, { session_id: one.sid.toUpperCase(), reason })
    t.strictSame(idsOf(ended), [one.sid])
    await assertOver(t, w, one, 'one session')
    await assertGoesOn(t, w, two, 'and no other')
    t.match(await query(`select reason from revocations where subject = $1`, [one.sid]), [{ reason }])
    const notTheirs = await ask('POST', `/users/${user.id}/revoke`, { session_id: stranger.sid })
    t.strictSame(refusalOf(notTheirs), refusal('not_found'))

    t.strictSame(idsOf(await ask('POST', `/users/${user.id}/revoke`, { reason })), [user.sid, two.sid].sort())
    for (const session of [user, two]) await assertOver(t, w, session, 'everything')
    await assertGoesOn(t, w, stranger, 'of theirs')
    await assertGoesOn(t, w, await logIn(a.url, user), 'the account stays open')
    t.match(a.log.join(''), new RegExp(`"event":"account.recalled","sub":"${user.id}".*"reason":"${reason}"`))
    for (const wrong of [
      { reason: '' },
      { reason: 'a\nb' },
      { reason: 'x'.repeat(201) },
      { session_id: 'x' },
      { all: true },
    ])
      t.equal((await ask('POST', `/users/${user.id}/revoke`, wrong)).status, 400, JSON.stringify(wrong))
  },
)

t.test('the same is done from a shell', async (t) => {
  const w = await world(t)
  const { a, stores, query } = w
  const folder = mkdtempSync(join(tmpdir(), 'latchkey-users-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'users.jsonl')
  const env = { ...stores.env, ISSUER: 'https://auth.test' }
  const users = async (...args: string[]) => {
    const { code, stdout, stderr } = await runCli(t, ['--json', 'users', ...args], { env })
    return { code, stderr, told: code === 0 ? JSON.parse(stdout) : stdout }
  }
  const { username } = randomUser()
  const email = ['--email', 'ada@example.org', '--email-verified']
  const created = await users('create', username, ...email, '--role', 'editor')
  t.equal(created.code, 0, created.stderr)
  const [{ id, password, ...account }] = created.told
  t.match(account, {
    username,
    email: 'ada@example.org',
    email_verified: true,
    roles: ['editor'],
    status: 'active',
  })
  t.notOk(created.stderr.includes(password), 'its password is told once, and not to the log')
  const session = await logIn(a.url, { username, password })

  t.strictSame(
    (await users('revoke', username, '--dry-run')).told.map((one: { id: string }) => one.id),
    [session.sid],
  )
  await assertGoesOn(t, w, session, 'a dry run')
  const other = await logIn(a.url, { username, password })
  t.match((await users('revoke', username, '--session', other.sid)).told, [{ id: other.sid }])
  await assertOver(t, w, other, 'one session')
  const { jti = '' } = decodeJwt(session.token)
  t.match(await runCli(t, ['tokens', 'revoke', jti, '--reason', 'seen in a log'], { env }), { code: 0 })
  t.strictSame(refusalOf(await getProtected(a.url, session.token)), refusal('token_revoked'), 'one token')
  Object.assign(session, { token: (await refresh(a.url, session.refreshToken)).body.access_token })
  const found = (...filter: string[]) => users('list', ...filter)
  t.match((await found('--query', username.slice(0, 20).toUpperCase(), '--status', 'active')).told, [
    { username },
  ])
  t.strictSame((await found('--query', username, '--role', 'author')).told, [])
  t.match(await found('--role', 'author', '--role', 'editor'), { code: 1, stderr: /one role at a time/ })
  t.match(await found('--status', 'closed'), { code: 1, stderr: /no status/ })
  const loud = await users('revoke', username, '--dry-run', '--reason', 'a\u001b[2Jb')
  t.match(loud, { code: 1, stderr: /nothing that controls a terminal/ })
  t.equal((await users('revoke', username.toUpperCase(), '--reason', 'a test')).code, 0)
  await assertOver(t, w, session, 'revoked')
  t.match((await users('roles', username, '--role', 'author')).told, [{ roles: ['author'] }])
  const next = await logIn(a.url, { username, password })
  t.match((await users('disable', username)).told, [{ status: 'disabled' }])
  t.match(await users('create', 'another', '--email', 'no address'), { code: 1, stderr: /no account/ })
  await assertOver(t, w, next, 'disabled')

  const imported = randomUser().username
  const password_hash = '$2b$04$3H6pWtXpzhtx7UM9mEhuvuqkF1v1n7d/7MBkn2SY7YpAU4l/RFqdm'
  const lines = [
    { username: imported, password_hash, roles: ['editor'] },
    { username, password_hash },
    { username: 7 },
  ]
  writeFileSync(file, `${lines.map((line) => JSON.stringify(line)).join('\n')}\nno JSON\n\n`)
  const { code, stderr } = await users('import', file)
  t.equal(code, 1)
  t.match(
    stderr,
    /1 accounts made, but not\n {2}line 2: .*already\.\n {2}line 3: .*no account\n {2}line 4: .*no account/,
  )
  t.equal((await post(a.url, '/login', { username: imported, password: 'x' })).status, 200)

  t.equal((await users('delete', username)).code, 0)
  t.match(await query('select 1 from users where id = $1', [id]), [])
  t.match(await users('delete', username), {
    code: 1,
    stderr: /latchkey users delete: There is nothing here\./,
  })
  for (const wrong of [['create'], ['list', '--email', 'x'], ['create', 'x', '--dry-run'], ['nothing']])
    t.equal((await users(...wrong)).code, 2, wrong.join(' '))
  t.ok((await users('list')).told.length >= 2)
})
