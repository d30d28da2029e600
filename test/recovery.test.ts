/** Mail: addresses that are verified, passwords that were lost, and that nothing of it tells who has an account. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeJwt } from 'jose'
import { type TOTP, URI } from 'otpauth'
import t, { type Test } from 'tap'
import type { Environment } from '../src/settings.ts'
import { postgresAndRedis, randomUser, startInstance, type User } from './fixtures/app.ts'
import {
  bearer,
  call,
  getProtected,
  logIn,
  post,
  refresh,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { type Pair, startPair } from './fixtures/pair.ts'
import { giveMailToken } from './fixtures/second-factor.ts'
import { type Mail, type MailServer, startMailServer, tokenOf } from './fixtures/smtp.ts'

const newPassword = 'three blind mice went sailing'
const appUrl = 'https://app.test/account'

interface World extends Pair {
  server: MailServer
}

async function world(t: Test, env: Environment = {}): Promise<World> {
  const server = await startMailServer(t)
  const settings = {
    SMTP_URL: server.url,
    MAIL_FROM: 'latchkey <no-reply@auth.test>',
    APP_URL: appUrl,
    ...env,
  }
  return { ...(await startPair(t, settings)), server }
}

type Person = User & { id: string; email: string }

/** The mails to an address, once there are so many. */
async function mailsTo(t: Test, { server }: World, address: string, count = 1): Promise<Mail[]> {
  const theirs = () => server.mails.filter(({ to }) => to === address)
  await eventually(t, async () => theirs().length >= count, 8_000)
  return theirs()
}

const lastOf = (mails: Mail[]) => mails.map(tokenOf).filter(Boolean).at(-1) ?? ''

async function registered(w: World): Promise<Person> {
  const user = randomUser()
  const email = `${user.username}@example.org`
  const { status, body } = await post(w.a.url, '/register', { ...user, email })
  t.equal(status, 201)
  return { ...user, email, id: body.id }
}

const verify = (url: string, token: string) => post(url, '/email/verify', { token })

async function verified(w: World): Promise<Person> {
  const person = await registered(w)
  t.equal((await verify(w.b.url, lastOf(await mailsTo(t, w, person.email)))).status, 204)
  return person
}

const forgot = (url: string, account: object) => post(url, '/password/forgot', account)
const reset = (url: string, token: string, new_password = newPassword) =>
  post(url, '/password/reset', { token, new_password })

/** Until nothing waits to be mailed. */
const settled = (t: Test, { query }: World) =>
  eventually(t, async () => (await query('select id from mail_jobs')).length === 0, 8_000)

async function changeEmail(url: string, token: string, email: string) {
  return await call(url, '/me/email', {
    method: 'PUT',
    headers: { ...bearer(token), 'content-type': 'application/json' },
    body: JSON.stringify({ email }),
  })
}

t.test('an address counts when somebody has followed the link that was mailed to it', async (t) => {
  const w = await world(t, { SERVICE_NAME: 'Ye Olde Orders' })
  const { a, b, clock, query } = w
  const person = await registered(w)
  const [mail] = (await mailsTo(t, w, person.email)) as [Mail]
  t.equal(mail.from, 'no-reply@auth.test')
  t.match(mail.subject, /Ye Olde Orders/)
  t.match(mail.text, `${appUrl}#verify=`)
  t.notOk(mail.text.includes(person.username), 'whoever chose that name may not be who reads this')
  const { token } = await logIn(a.url, person)
  const me = async () => (await call(a.url, '/me', { headers: bearer(token) })).body
  t.match(await me(), { email: person.email, email_verified: false })

  const link = tokenOf(mail)
  t.match(link, /^[\w-]{43}$/)
  t.notOk(JSON.stringify(await query('select * from mail_tokens')).includes(link), 'it is kept as a hash')
  const bad = refusal('invalid_token')
  for (const wrong of [link.slice(0, -1), `${link}x`, '', token])
    t.strictSame(refusalOf(await verify(a.url, wrong)), bad)
  t.strictSame(refusalOf(await reset(a.url, link)), bad, 'it is good for nothing else')
  const both = await Promise.all([verify(a.url, link), verify(b.url, link)])
  t.strictSame(both.map(({ status }) => status).sort(), [204, 400], 'once')
  t.match(await me(), { email_verified: true })

  const other = await registered(w)
  const late = lastOf(await mailsTo(t, w, other.email))
  clock.advance(86_401)
  t.strictSame(refusalOf(await verify(a.url, late)), bad, 'for a day')
})

t.test('another address takes a fresh login, and counts when it is verified', async (t) => {
  const w = await world(t)
  const { a, b, clock } = w
  const person = await verified(w)
  const { token } = await logIn(a.url, person)
  const next = `next-${person.email}`
  t.equal((await changeEmail(b.url, token, next)).status, 202)
  const me = async () => (await call(a.url, '/me', { headers: bearer(token) })).body
  t.match(await me(), { email: person.email, email_verified: true }, 'not yet')
  const mails = await mailsTo(t, w, next)
  await forgot(a.url, { email: person.email })
  const old = lastOf(await mailsTo(t, w, person.email, 2))
  t.equal((await verify(a.url, lastOf(mails))).status, 204)
  t.match(await me(), { email: next, email_verified: true })
  t.strictSame(
    refusalOf(await reset(a.url, old)),
    refusal('invalid_token'),
    'what the old one was sent is void',
  )
  const farewell = (await mailsTo(t, w, person.email, 3)).at(-1) as Mail
  t.match(farewell.text, 'has another address', 'and whoever reads it is told')
  t.equal(tokenOf(farewell), '')
  for (const wrong of ['', 'x', 'a@b', `${'x'.repeat(250)}@b.test`, 'a@b.test\r\nBcc: c@d.test'])
    t.equal((await changeEmail(a.url, token, wrong)).status, 400, wrong)
  clock.advance(601)
  t.equal((await changeEmail(a.url, token, next)).body.code, 'reauthentication_required')
})

t.test('a lost password is replaced by mail, and everything from before ends', async (t) => {
  const w = await world(t)
  const { a, b, query } = w
  const person = await verified(w)
  const sessions = [await logIn(a.url, person), await logIn(b.url, person)]
  for (const account of [
    { username: person.username.toUpperCase() },
    { email: person.email.toUpperCase() },
  ]) {
    const { status, body } = await forgot(a.url, account)
    t.strictSame([status, body], [202, ''])
  }
  const [, first, second] = await mailsTo(t, w, person.email, 3)
  t.match(first?.text, `${appUrl}#reset=`)
  const token = tokenOf(first as Mail)
  t.notOk(JSON.stringify(await query('select * from mail_tokens')).includes(token), 'it is kept as a hash')
  t.match(
    (await reset(a.url, token, 'too short')).body,
    { code: 'weak_password' },
    'which does not use it up',
  )
  t.match((await reset(a.url, token, `it is ${person.username}`)).body, { code: 'weak_password' })

  const both = await Promise.all([reset(a.url, token), reset(b.url, token, `${newPassword} too`)])
  t.strictSame(both.map(({ status }) => status).sort(), [204, 400], 'once')
  const password = both[0]?.status === 204 ? newPassword : `${newPassword} too`
  t.strictSame(
    refusalOf(await reset(a.url, tokenOf(second as Mail))),
    refusal('invalid_token'),
    'the others are void',
  )
  for (const { url } of [a, b])
    for (const session of sessions) {
      t.strictSame(refusalOf(await getProtected(url, session.token)), refusal('token_revoked'))
      t.equal((await refresh(url, session.refreshToken)).status, 401)
    }
  t.strictSame(refusalOf(await post(a.url, '/login', { ...pick(person) })), refusal('invalid_credentials'))
  t.ok((await logIn(b.url, { ...person, password })).token)
  t.match([...a.log, ...b.log].join(''), `"event":"account.password_reset","sub":"${person.id}"`)
  const log = [...a.log, ...b.log].join('')
  for (const secret of [token, newPassword, tokenOf(second as Mail)]) t.notOk(log.includes(secret))
})

const pick = ({ username, password }: User) => ({ username, password })

t.test('a reset leaves the second factor on, and lets in whom guesses have kept out', async (t) => {
  const w = await world(t)
  const { a, clock } = w
  const person = await verified(w)
  const { token } = await logIn(a.url, person)
  const { body } = await post(a.url, '/mfa/totp', undefined, bearer(token))
  const app = URI.parse(body.otpauth_uri) as TOTP
  const code = () => app.generate({ timestamp: clock.now() })
  await post(a.url, '/mfa/totp/verify', { code: code() }, bearer(token))
  clock.advance(30)
  for (let i = 0; i < 100; i++) await post(a.url, '/login', { ...pick(person), password: `${i}` })
  t.strictSame(refusalOf(await post(a.url, '/login', pick(person))), refusal('password_reset_required'))

  await forgot(a.url, { username: person.username })
  t.equal((await reset(a.url, lastOf(await mailsTo(t, w, person.email, 3)))).status, 204)
  const login = await post(a.url, '/login', { username: person.username, password: newPassword })
  t.match([login.status, login.body.code], [403, 'mfa_required'])
  const done = await post(a.url, '/login/mfa', { mfa_token: login.body.mfa_token, code: code() })
  t.match(decodeJwt(done.body.access_token), { acr: 'aal2' })
})

t.test(
  'who has no account, no verified address or no open account gets the same reply, and no mail',
  async (t) => {
    const w = await world(t)
    const { a, b, server, query } = w
    const known = await verified(w)
    const unverified = await registered(w)
    const disabled = await verified(w)
    await settled(t, w)
    await query(`update users set status = 'disabled' where id = $1`, [disabled.id])
    const before = server.mails.length
    const replies = await Promise.all(
      [
        { username: known.username },
        { username: unverified.username },
        { email: unverified.email },
        { username: disabled.username },
        { username: 'nobody-at-all' },
        { username: 'no body' },
        { email: 'nobody@example.org' },
      ].map((account, i) => forgot([a, b][i % 2]?.url as string, account)),
    )
    const toldOf = ({ status, headers, body }: (typeof replies)[number]) => ({
      status,
      body,
      headers: [...headers].filter(([name]) => name !== 'date'),
    })
    for (const reply of replies) t.strictSame(toldOf(reply), toldOf(replies[0] as (typeof replies)[number]))
    await settled(t, w)
    t.strictSame(
      server.mails.slice(before).map(({ to }) => to),
      [known.email],
    )
    for (const wrong of [
      {},
      { username: 'x', email: 'a@b.test' },
      { email: 'x' },
      { name: 'x' },
      { username: 7 },
    ])
      t.equal((await forgot(a.url, wrong)).body.code, 'invalid_request', JSON.stringify(wrong))
  },
)

t.test('nobody’s mailbox is filled, whoever asks and for whatever account', async (t) => {
  const w = await world(t)
  const { a, b, clock } = w
  const person = await verified(w)
  for (let i = 0; i < 8; i++) await forgot(a.url, { email: person.email })
  for (let i = 0; i < 8; i++)
    t.equal(
      (await post(b.url, '/register', { ...randomUser(), email: person.email.toUpperCase() })).status,
      201,
    )
  // Nor does an account that is named like it.
  t.equal((await post(a.url, '/register', { ...randomUser(), username: person.email })).status, 201)
  await forgot(b.url, { email: person.email })
  await settled(t, w)
  const heard = () => w.server.mails.filter(({ to }) => to.toLowerCase() === person.email)
  const links = (purpose: string) => heard().filter(({ text }) => text.includes(`#${purpose}=`)).length
  t.strictSame(
    [links('reset'), links('verify')],
    [5, 5],
    'in an hour, and whoever uses up the ones uses up none of the others',
  )
  t.match([...a.log, ...b.log].join(''), `"event":"mail.withheld","kind":"reset","sub":"${person.id}"`)
  clock.advance(3601)
  const old = heard().find(({ text }) => text.includes('#reset='))
  t.strictSame(refusalOf(await reset(a.url, tokenOf(old as Mail))), refusal('invalid_token'), 'after an hour')
  await forgot(a.url, { email: person.email })
  await mailsTo(t, w, person.email, 1)
  await eventually(t, async () => heard().length === 11)
})

t.test('of several accounts of one address each has one mail, however often one is not taken', async (t) => {
  const w = await world(t)
  const { a, clock, server, query } = w
  const [one, other] = [await verified(w), await verified(w)]
  await query('update users set email = $1 where id = $2', [one.email, other.id])
  const before = server.mails.length
  server.capacity = before + 1
  await forgot(a.url, { email: one.email })
  for (const [wait, refusals] of [
    [60, 1],
    [120, 2],
    [240, 3],
  ] as const) {
    await eventually(t, async () => server.refused >= refusals)
    clock.advance(wait)
  }
  await eventually(t, async () => server.refused >= 4)
  t.equal(server.mails.length, before + 1)
  server.capacity = Number.POSITIVE_INFINITY
  clock.advance(480)
  await settled(t, w)
  const told = server.mails
    .slice(before)
    .map(({ text }) => [one, other].findIndex(({ username }) => text.includes(username)))
  t.strictSame(told.sort(), [0, 1])
  t.equal(
    (await query(`select hash from mail_tokens where user_id = $1`, [one.id])).length +
      (await query(`select hash from mail_tokens where user_id = $1`, [other.id])).length,
    6,
  )
})

t.test('of several addresses that were asked for, the last one can be verified', async (t) => {
  const w = await world(t)
  const person = await verified(w)
  const { token } = await logIn(w.a.url, person)
  const typos = [`x-${person.email}`, `y-${person.email}`, `z-${person.email}`]
  const tokens: string[] = []
  for (const address of [...typos, `right-${person.email}`]) {
    t.equal((await changeEmail(w.a.url, token, address)).status, 202)
    tokens.push(lastOf(await mailsTo(t, w, address)))
  }
  const statuses: number[] = []
  for (const one of tokens) statuses.push((await verify(w.a.url, one)).status)
  t.strictSame(statuses, [400, 400, 400, 204])
})

t.test(
  'people are told of what changes how they log in, at the address that is known to be theirs',
  async (t) => {
    const w = await world(t, { SERVICE_NAME: 'Ye Olde Orders' })
    const { a, clock } = w
    const person = await verified(w)
    const { token } = await logIn(a.url, person)
    const told = async (count: number) => (await mailsTo(t, w, person.email, count)).at(-1)?.text ?? ''
    const { body } = await post(a.url, '/mfa/totp', undefined, bearer(token))
    const app = URI.parse(body.otpauth_uri) as TOTP
    const code = () => app.generate({ timestamp: clock.now() })
    await post(a.url, '/mfa/totp/verify', { code: code() }, bearer(token))
    t.match(await told(2), `${person.username} at Ye Olde Orders takes a code of an authenticator app`)
    clock.advance(30)
    const proof = { password: person.password, code: code() }
    const proven = (await post(a.url, '/reauthenticate', proof, bearer(token))).body.access_token
    const removed = await call(a.url, '/mfa/totp', { method: 'DELETE', headers: bearer(proven) })
    t.equal(removed.status, 204)
    t.match(await told(3), 'takes the password alone')
    const changed = await call(a.url, '/me/password', {
      method: 'PUT',
      headers: { ...bearer(proven), 'content-type': 'application/json' },
      body: JSON.stringify({ current_password: person.password, new_password: newPassword }),
    })
    t.equal(changed.status, 200)
    const text = await told(4)
    t.match(text, 'has another password')
    t.notOk(text.includes(newPassword))
    const other = await registered(w)
    const session = await logIn(a.url, other)
    await post(a.url, '/mfa/totp', undefined, bearer(session.token))
    await settled(t, w)
    t.equal((await mailsTo(t, w, other.email)).length, 1, 'nobody writes to an address that is not verified')
  },
)

t.test('what was asked for before a new password, by whomever, is void', async (t) => {
  const w = await world(t)
  const { a, clock, server } = w
  const person = await verified(w)
  const thief = await logIn(a.url, person)
  const theirs = `thief-${person.email}`
  await changeEmail(a.url, thief.token, theirs)
  await forgot(a.url, { username: person.username })
  const [link = '', old = ''] = [
    lastOf(await mailsTo(t, w, theirs)),
    lastOf(await mailsTo(t, w, person.email, 2)),
  ]
  // And one that is still waiting to be mailed.
  server.mood = 'busy'
  const late = `late-${person.email}`
  await changeEmail(a.url, thief.token, late)
  await eventually(t, async () => server.refused > 0)
  const changed = await call(a.url, '/me/password', {
    method: 'PUT',
    headers: { ...bearer((await logIn(a.url, person)).token), 'content-type': 'application/json' },
    body: JSON.stringify({ current_password: person.password, new_password: newPassword }),
  })
  t.equal(changed.status, 200)
  const bad = refusal('invalid_token')
  t.strictSame(refusalOf(await verify(a.url, link)), bad, 'an address of a thief')
  t.strictSame(refusalOf(await reset(a.url, old, `${newPassword} again`)), bad, 'a reset')
  server.mood = 'kind'
  clock.advance(60)
  await settled(t, w)
  t.strictSame(
    server.mails.filter(({ to }) => to === late),
    [],
    'what had not left',
  )
})

t.test('a link is good for the account that it was meant for, as that is', async (t) => {
  const { a, stores, query } = await world(t)
  const bad = refusal('invalid_token')
  const databaseUrl = stores.env.DATABASE_URL as string
  for (const [name, change] of Object.entries({
    'another address': `update users set email = 'other@example.org' where id = $1`,
    'a ban': `update users set status = 'disabled' where id = $1`,
  })) {
    const { id } = await registerAndLogIn(a.url)
    const token = await giveMailToken(databaseUrl, id, 'reset')
    await query(change, [id])
    t.strictSame(refusalOf(await reset(a.url, token)), bad, name)
  }
  const { id } = await registerAndLogIn(a.url)
  const token = await giveMailToken(databaseUrl, id, 'verify')
  await query(`update users set status = 'disabled' where id = $1`, [id])
  t.strictSame(refusalOf(await verify(a.url, token)), bad, 'a ban, and an address')
})

t.test('a mail server that is down holds no reply up, and loses no mail', async (t) => {
  const w = await world(t)
  const { a, b, clock, server, query } = w
  const person = await verified(w)
  server.mood = 'busy'
  const before = server.mails.length
  t.equal((await forgot(a.url, { username: person.username })).status, 202)
  for (const [i, seconds] of [0, 60, 120, 240, 480].entries()) {
    clock.advance(seconds)
    await eventually(t, async () => server.refused > i)
    const [job] = await query('select attempts, due_at from mail_jobs')
    const until = (Number(job?.due_at) - clock.now()) / 1000
    t.strictSame([job?.attempts, until], [i + 1, 60 * 2 ** i], 'longer each time')
  }
  const told = () => [...a.log, ...b.log].filter((line) => line.includes('a mail was not sent'))
  await eventually(t, async () => told().length === 5)
  t.notOk(told().join('').includes('ada@example.org'), 'without what the server says')

  server.mood = 'silent'
  clock.advance(960)
  await eventually(t, async () => server.waiting > 0)
  const begun = Date.now()
  t.equal((await forgot(b.url, { username: 'nobody-at-all' })).status, 202)
  t.equal((await logIn(a.url, person)).username, person.username)
  t.ok(Date.now() - begun < 2_000, 'nobody waits for it')

  server.mood = 'kind'
  await eventually(t, async () => told().length > 5)
  clock.advance(1920)
  const mails = await mailsTo(t, w, person.email, 2)
  t.equal((await reset(a.url, lastOf(mails))).status, 204)
  await eventually(t, async () => (await query('select id from mail_jobs')).length === 0, 15_000)
  t.ok(server.mails.length > before)
})

t.test('a process ends while a mail server lets it wait, and the mail is sent by another', async (t) => {
  const w = await world(t)
  const { a, clock, server, stores } = w
  const person = await verified(w)
  await w.b.app.close()
  server.mood = 'silent'
  await forgot(a.url, { username: person.username })
  await eventually(t, async () => server.waiting > 0)
  const begun = Date.now()
  await a.app.close()
  t.ok(Date.now() - begun < 4_000, `${Date.now() - begun} ms`)
  server.mood = 'kind'
  clock.advance(60)
  const env = { SMTP_URL: server.url, MAIL_FROM: 'no-reply@auth.test', APP_URL: appUrl }
  const next = await startInstance(t, { stores, clock, env })
  t.equal((await reset(next.url, lastOf(await mailsTo(t, w, person.email, 2)))).status, 204)
})

t.test('what could not be mailed for a day is dropped, and told', async (t) => {
  const w = await world(t)
  const { a, b, clock, server } = w
  const person = await verified(w)
  server.mood = 'busy'
  await forgot(a.url, { username: person.username })
  await eventually(t, async () => server.refused > 0)
  clock.advance(86_401)
  await settled(t, w)
  t.equal(
    [...a.log, ...b.log].filter((line) => line.includes('"event":"mail.dropped","kind":"reset"')).length,
    1,
  )
})

t.test('what a newer instance has to mail is left to it', async (t) => {
  const w = await world(t)
  const { a, b, clock, query } = w
  const sealed = a.app.database.sealer.seal('mail job', Buffer.from('{}'))
  const now = new Date(clock.now())
  await query(
    `insert into mail_jobs (kind, sealed_payload, due_at, expires_at) values ('newer', $1, $2, $2::timestamptz + interval '1 day')`,
    [sealed, now],
  )
  await eventually(t, async () => (await query('select from mail_jobs where attempts = 1')).length === 1)
  clock.advance(60)
  await eventually(t, async () => (await query('select from mail_jobs where attempts = 2')).length === 1)
  clock.advance(86_400)
  await settled(t, w)
  t.match([...a.log, ...b.log].join(''), '"event":"mail.dropped","kind":"newer"')
})

t.test('of many instances one sends a mail', async (t) => {
  const w = await world(t)
  const people = await Promise.all(Array.from({ length: 10 }, () => registered(w)))
  await settled(t, w)
  for (const { email } of people) t.equal((await mailsTo(t, w, email)).length, 1)
})

t.test('a code by mail is a second factor where that is wanted, and satisfies no step-up', async (t) => {
  const w = await world(t, { MAIL_SECOND_FACTOR: 'on', SECOND_FACTOR_ROLES: 'admin' })
  const { a, b, clock, query } = w
  const unverified = await registered(w)
  t.ok((await logIn(a.url, unverified)).token, 'an address that nobody has shown to read is none')
  const person = await verified(w)
  await query(`update users set roles = '{admin}' where id = $1`, [person.id])
  const first = await post(a.url, '/login', pick(person))
  t.match([first.status, first.body.code], [403, 'mfa_required'])
  t.strictSame(first.body.methods, ['mail'])
  const codeIn = (mail: Mail | undefined) => /^ {2}(\d{8})\r?$/m.exec(mail?.text ?? '')?.[1] ?? ''
  const [, mail] = await mailsTo(t, w, person.email, 2)
  const code = codeIn(mail)
  t.match(code, /^\d{8}$/)
  const complete = (token: string, shown: string) =>
    post(b.url, '/login/mfa', { mfa_token: token, code: shown })
  const wrong = code === '00000000' ? '00000001' : '00000000'
  t.strictSame(refusalOf(await complete(first.body.mfa_token, wrong)), refusal('invalid_code'))
  const other = await post(a.url, '/login', pick(person))
  await mailsTo(t, w, person.email, 3)
  t.strictSame(
    refusalOf(await complete(other.body.mfa_token, code)),
    refusal('invalid_code'),
    'another login’s',
  )
  const { status, body } = await complete(first.body.mfa_token, `${code.slice(0, 4)} ${code.slice(4)}`)
  t.equal(status, 200)
  t.match(decodeJwt(body.access_token), { amr: ['pwd', 'mail'], acr: 'aal1' })
  t.strictSame(refusalOf(await complete(first.body.mfa_token, code)), refusal('mfa_token_invalid'), 'once')
  const admin = await call(a.url, '/admin/users', { headers: bearer(body.access_token) })
  t.equal(admin.body.code, 'reauthentication_required')
  const proven = await post(
    a.url,
    '/reauthenticate',
    { password: person.password, code },
    bearer(body.access_token),
  )
  t.match(decodeJwt(proven.body.access_token), { amr: ['pwd'], acr: 'aal1' })
  const kept = JSON.stringify(await query('select * from mfa_challenges'))
  for (const text of [kept, a.log.join(''), b.log.join('')]) t.notOk(text.includes(code))

  const { body: enrolment } = await post(a.url, '/mfa/totp', undefined, bearer(proven.body.access_token))
  const app = URI.parse(enrolment.otpauth_uri) as TOTP
  const shown = app.generate({ timestamp: clock.now() })
  const waiting = await post(a.url, '/login', pick(person))
  await mailsTo(t, w, person.email, 4)
  await post(a.url, '/mfa/totp/verify', { code: shown }, bearer(proven.body.access_token))
  t.strictSame(
    (await post(a.url, '/login', pick(person))).body.methods,
    ['totp', 'recovery_code'],
    'an app is better',
  )
  const late = await complete(waiting.body.mfa_token, codeIn((await mailsTo(t, w, person.email, 4)).at(-1)))
  t.strictSame(refusalOf(late), refusal('mfa_token_invalid'), 'and what was mailed before takes too little')
})

t.test(
  'without a mail server, mails are left in a folder for development, and the log has no secret of it',
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'latchkey-outbox-'))
    t.teardown(() => rmSync(folder, { recursive: true }))
    const stores = await postgresAndRedis(t)
    const { url, log } = await startInstance(t, { stores, env: { DATA_DIR: folder } })
    const user = randomUser()
    await post(url, '/register', { ...user, email: 'ada@example.org' })
    const outbox = join(folder, 'outbox')
    const files = () => {
      try {
        return readdirSync(outbox).filter((name) => !name.startsWith('.'))
      } catch {
        return []
      }
    }
    await eventually(t, async () => files().length === 1)
    t.strictSame(
      log.filter((line) => /"level":[456]0/.test(line)),
      [],
      'nothing was a fault',
    )
    const [name = ''] = files()
    const text = readFileSync(join(outbox, name), 'utf8')
    t.match(text, /^From: latchkey@localhost\nTo: ada@example\.org\nSubject: /)
    const token = tokenOf({ text } as Mail)
    t.match(text, `https://auth.test/#verify=${token}`)
    t.equal(statSync(outbox).mode & 0o077, 0, 'for its owner alone')
    t.equal((await verify(url, token)).status, 204)
    t.match(log.join(''), 'SMTP_URL is not set: mails are left in')
    t.notOk(log.join('').includes(token))
  },
)

t.test('where nothing can be mailed, nobody is promised a mail', async (t) => {
  const stores = await postgresAndRedis(t)
  const { url } = await startInstance(t, {
    stores,
    env: { NODE_ENV: 'production', KEY_ENCRYPTION_SECRET: 'nKx0v1Wd7ZqT3uYb9sLr5mPe8hJf2cAg' },
  })
  const { token } = await registerAndLogIn(url)
  const none = refusal('unavailable', 'This service sends no mail.')
  t.strictSame(refusalOf(await forgot(url, { username: 'ada' })), none)
  t.strictSame(refusalOf(await changeEmail(url, token, 'ada@example.org')), none)
  t.equal((await post(url, '/register', { ...randomUser(), email: 'ada@example.org' })).status, 201)
})

t.test('what the link says comes from the settings, whatever host a request names', async (t) => {
  const w = await world(t)
  const person = await verified(w)
  const { hostname, port } = new URL(w.a.url)
  const { request } = await import('node:http')
  await new Promise<void>((done, fail) => {
    const body = JSON.stringify({ username: person.username })
    const headers = {
      host: 'evil.test',
      'x-forwarded-host': 'evil.test',
      'content-type': 'application/json',
      'content-length': body.length,
    }
    request({ hostname, port, path: '/password/forgot', method: 'POST', headers }, (reply) => {
      t.equal(reply.statusCode, 202)
      reply.resume().on('end', done)
    })
      .on('error', fail)
      .end(body)
  })
  const mail = (await mailsTo(t, w, person.email, 2)).at(-1) as Mail
  t.notOk(mail.text.includes('evil'))
  t.ok(mail.text.includes(`${appUrl}#reset=`))
})
