/**
 * Whatever is sent, the reply is a clear refusal with a code of the closed list, nothing is written, nothing counts as a
 * fault of the service, and no secret gets into its log.
 */
import { once } from 'node:events'
import { connect } from 'node:net'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import {
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
  type Refusal,
  type Reply,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { startRedis } from './fixtures/servers.ts'

const stores = await postgresAndRedis(t)
const databaseUrl = stores.env.DATABASE_URL as string
const { url, log } = await startInstance(t, { stores })
const known = await registerAndLogIn(url)

/** What was sent here as if it were secret. */
const passwords: string[] = [known.password]

const json = 'content-type: application/json'
const authorization = `authorization: Bearer ${known.token}`

type Bytes = string | Buffer

/** A request as it stands on the wire. */
function request(line: string, headers: readonly string[] = [], body: Bytes = ''): Buffer {
  const fields = ['host: x', 'connection: close', ...headers]
  return Buffer.concat([
    Buffer.from(`${line} HTTP/1.1\r\n${fields.map((field) => `${field}\r\n`).join('')}\r\n`, 'latin1'),
    Buffer.from(body),
  ])
}

const withBody = (line: string, body: Bytes, headers: readonly string[] = [json]): Buffer =>
  request(line, [...headers, `content-length: ${Buffer.byteLength(body)}`], body)

const invalid = (detail?: string) => refusal('invalid_request', detail)
const notJson = invalid('The body is not JSON in UTF-8.')
const twice = invalid('The body names a member twice.')
const proto = invalid('The body has a member named __proto__.')
const misfit = invalid('The body has a NUL or half a surrogate pair in it.')
const surplus = invalid('body must NOT have additional properties.')

function newcomer(): User {
  const user = randomUser()
  passwords.push(user.password)
  return user
}

/** How many rows there are of all that a request could write. */
const rows = () =>
  withClient(databaseUrl, async (client) => {
    const { rows } = await client.query(`select
      (select count(*) from users) as users, (select count(*) from sessions) as sessions,
      (select count(*) from refresh_tokens) as refresh_tokens, (select count(*) from revocations) as revocations`)
    return rows[0]
  })

/** Sends each case, and then looks whether any of them left a trace. */
async function assertRefused(t: Test, cases: readonly (readonly [string, Bytes, Refusal])[]): Promise<void> {
  const before = await rows()
  const [lines, faults] = [log.length, () => log.slice(lines).filter((line) => JSON.parse(line).level > 30)]
  for (const [name, bytes, expected] of cases) {
    const reply = await exchange(url, bytes)
    t.strictSame(refusalOf(reply), expected, name)
    t.equal(reply.rest, '', `${name}: one reply`)
  }
  t.strictSame(await rows(), before, 'nothing was written')
  t.strictSame(faults(), [], 'nothing was a fault of the service')
  t.equal((await getProtected(url, known.token)).status, 200, 'the session of the one who asked is alive')
}

t.test('the tool is sound: the same requests, well written, are taken', async (t) => {
  const { username, password } = newcomer()
  const user = JSON.stringify({ username, password })
  t.equal((await exchange(url, withBody('POST /register', user))).status, 201)
  t.equal((await exchange(url, withBody('POST /login', user))).status, 200)
  t.equal((await exchange(url, request('GET /protected', [authorization]))).status, 200)
})

t.test('a body that two readers might read differently is refused, whichever spelling', async (t) => {
  const cases: ((user: User) => [string, string, Refusal])[] = [
    ({ username: u, password: p }) => [
      'the name twice',
      `{"username":"${known.username}","username":"${u}","password":"${p}"}`,
      twice,
    ],
    ({ username: u, password: p }) => [
      'the name twice, spelt otherwise',
      `{"username":"${known.username}","us\\u0065rname":"${u}","password":"${p}"}`,
      twice,
    ],
    ({ username: u, password: p }) => [
      'the name twice, spelt otherwise each time',
      `{"\\u0075sername":"${u}","us\\u0065rname":"${u}","password":"${p}"}`,
      twice,
    ],
    ({ username: u, password: p }) => [
      'the password twice, the same, with white space',
      `{"username":"${u}","password"\t:"${p}",\r\n"password" \n : "${p}"}`,
      twice,
    ],
    ({ username: u, password: p }) => [
      'twice in an object within',
      `{"username":"${u}","password":"${p}","more":{"a":1,"a":2}}`,
      twice,
    ],
    ({ username: u, password: p }) => [
      'twice in an object in a list',
      `{"username":"${u}","password":"${p}","more":[[{"a":{},"\\u0061":{}}]]}`,
      twice,
    ],
    ({ username: u, password: p }) => [
      'an empty name twice',
      `{"username":"${u}","password":"${p}","":1,"":2}`,
      twice,
    ],
    ({ username: u, password: p }) => [
      'twice, behind a text that looks like the end of one',
      `{"username":"${u}","password":"${p}","\\\\":"\\"","\\\\":"\\":"}`,
      twice,
    ],
    ({ username: u, password: p }) => [
      '__proto__',
      `{"username":"${u}","password":"${p}","__proto__":{"roles":["admin"]}}`,
      proto,
    ],
    ({ username: u, password: p }) => [
      '__proto__, spelt otherwise',
      `{"username":"${u}","password":"${p}","__prot\\u006f__":null}`,
      proto,
    ],
    ({ username: u, password: p }) => [
      '__proto__ that brings what is missing',
      `{"__proto__":{"username":"${u}","password":"${p}"}}`,
      proto,
    ],
    ({ username: u, password: p }) => [
      '__proto__ within',
      `{"username":"${u}","password":"${p}","more":[{"__proto__":1}]}`,
      proto,
    ],
    ({ username: u, password: p }) => [
      'constructor.prototype',
      `{"username":"${u}","password":"${p}","constructor":{"prototype":{"roles":["admin"]}}}`,
      surplus,
    ],
  ]
  for (const path of ['/register', '/login']) {
    const user = () => (path === '/login' ? known : newcomer())
    await assertRefused(
      t,
      cases.map((make) => {
        const [name, body, expected] = make(user())
        return [`${path}: ${name}`, withBody(`POST ${path}`, body), expected]
      }),
    )
  }
})

t.test('text that only looks like a second member is a password like any other', async (t) => {
  const lookalikes = [
    '","password":"another one',
    '\\","username":"somebody',
    '"":"a":"":"b":"":"c":"":',
    '{"a":1,"a":2}{"a":3,"a":4}',
    '\u2028"password":"my own":\u2029 : "" :',
    'ends with a backslash\\',
  ]
  for (const [i, password] of lookalikes.entries()) {
    const user = { ...newcomer(), password }
    t.equal((await post(url, '/register', user)).status, 201, `password ${i}`)
    t.equal((await post(url, '/login', user)).status, 200, `password ${i}`)
  }
})

t.test('a body of the wrong shape is refused, not repaired', async (t) => {
  const missing = (name: string) => invalid(`body must have required property '${name}'.`)
  const type = (what: string) => invalid(`body${what}.`)
  const shapes: [unknown, Refusal][] = [
    [[], type(' must be object')],
    [[known], type(' must be object')],
    ['text', type(' must be object')],
    [1, type(' must be object')],
    [true, type(' must be object')],
    [null, type(' must be object')],
    [{}, missing('username')],
    [{ username: known.username }, missing('password')],
    [{ password: known.password }, missing('username')],
  ]
  const changes: [object, Refusal][] = [
    [{ username: 12_345 }, type('/username must be string')],
    [{ username: null }, type('/username must be string')],
    [{ username: true }, type('/username must be string')],
    [{ username: [known.username] }, type('/username must be string')],
    [{ username: { toString: known.username } }, type('/username must be string')],
    [{ username: 'u'.repeat(1025) }, type('/username must NOT have more than 1024 characters')],
    [{ password: 123_456_789_012_345 }, type('/password must be string')],
    [{ password: null }, type('/password must be string')],
    [{ password: [known.password] }, type('/password must be string')],
    [{ password: 'p'.repeat(1025) }, type('/password must NOT have more than 1024 characters')],
    [{ roles: ['admin'] }, surplus],
    [{ id: known.id }, surplus],
    [{ generation: 7 }, surplus],
    [{ status: 'active' }, surplus],
    [{ passwordHash: 'x' }, surplus],
    [{ password_hash: 'x' }, surplus],
    [{ Username: known.username }, surplus],
    [{ hasOwnProperty: 1 }, surplus],
    [{ '': '' }, surplus],
  ]
  const email = type('/email must match format "email"')
  const onlyAt: Record<string, [object, Refusal][]> = {
    '/register': [
      [{ email: null }, type('/email must be string')],
      [{ email: ['somebody@example.org'] }, type('/email must be string')],
      [{ email: '' }, email],
      [{ email: 'somebody' }, email],
      [{ email: 'somebody@example.org\r\nBcc: everybody@example.org' }, email],
      [{ email: `${'e'.repeat(250)}@example.org` }, type('/email must NOT have more than 254 characters')],
      [{ remember: true }, surplus],
    ],
    '/login': [
      [{ remember: 'true' }, type('/remember must be boolean')],
      [{ remember: 1 }, type('/remember must be boolean')],
      [{ remember: null }, type('/remember must be boolean')],
      [{ remember: [true] }, type('/remember must be boolean')],
      [{ email: 'somebody@example.org' }, surplus],
    ],
  }
  for (const path of ['/register', '/login']) {
    const bodies: [unknown, Refusal][] = [...shapes]
    for (const [change, expected] of [...changes, ...(onlyAt[path] ?? [])]) {
      const { username, password } = path === '/login' ? known : newcomer()
      bodies.push([{ username, password, ...change }, expected])
    }
    await assertRefused(
      t,
      bodies.map(([body, expected]) => {
        const text = JSON.stringify(body)
        return [`${path}: ${text.slice(0, 120)}`, withBody(`POST ${path}`, text), expected]
      }),
    )
  }
})

t.test('bytes that are no JSON, no UTF-8 or no text that Postgres could keep are refused', async (t) => {
  const make = (change: (text: string, user: User) => Bytes) => (user: User) =>
    change(JSON.stringify({ username: user.username, password: user.password }), user)
  /** Puts bytes into the password, where no rule about names would refuse them. */
  const inPassword = (inside: Bytes) =>
    make((text, { password }) => {
      const [before = '', after = ''] = text.split(password)
      return Buffer.concat([Buffer.from(`${before}${password}`), Buffer.from(inside), Buffer.from(after)])
    })
  const cases: [string, (user: User) => Bytes, Refusal][] = [
    ['NUL, escaped', inPassword('\\u0000'), misfit],
    ['NUL as it is', inPassword('\0'), notJson],
    ['NUL in the name', make((text, { username }) => text.replace(username, `${username}\\u0000`)), misfit],
    ['the first half of a pair', inPassword('\\ud83d'), misfit],
    ['the second half of a pair', inPassword('\\ude00'), misfit],
    ['a pair the wrong way round', inPassword('\\ude00\\ud83d'), misfit],
    [
      'half a pair in the name',
      make((text, { username }) => text.replace(username, `${username}\\ud800`)),
      misfit,
    ],
    ['half a pair in UTF-8', inPassword(Buffer.from([0xed, 0xa0, 0x80])), notJson],
    ['a byte that UTF-8 does not have', inPassword(Buffer.from([0xff])), notJson],
    ['a character that is too long', inPassword(Buffer.from([0xc0, 0xaf])), notJson],
    ['a character that is cut off', inPassword(Buffer.from([0xe2, 0x82])), notJson],
    ['a character beyond Unicode', inPassword(Buffer.from([0xf4, 0x90, 0x80, 0x80])), notJson],
    ['Latin-1', inPassword(Buffer.from('é', 'latin1')), notJson],
    ['UTF-16', make((text) => Buffer.from(text, 'utf16le')), notJson],
    ['a byte order mark', make((text) => `\ufeff${text}`), notJson],
    ['a line break within a text', inPassword('\n'), notJson],
    ['an unknown escape', inPassword('\\x41'), notJson],
    ['single quotes', make((text) => text.replaceAll('"', "'")), notJson],
    ['a comma too many', make((text) => text.replace('}', ',}')), notJson],
    ['a comment', make((text) => `${text}//`), notJson],
    ['no end', make((text) => text.slice(0, -1)), notJson],
    ['two of them', make((text) => text + text), notJson],
    ['NaN', make((text) => text.replace('}', ',"n":NaN}')), notJson],
    ['white space only', () => ' \r\n\t', notJson],
    ['a form', make((_, { username, password }) => `username=${username}&password=${password}`), notJson],
    ['gzip', make((text) => gzipSync(text)), notJson],
    ['8,000 lists in each other', () => '['.repeat(8000) + ']'.repeat(8000), invalid('body must be object.')],
    [
      '2,000 objects in each other',
      make((text) => text.replace('}', `,"more":${'{"a":'.repeat(2000)}1${'}'.repeat(2000)}}`)),
      surplus,
    ],
    [
      'a name that is 5,000 lists in each other',
      make((text, { username }) => text.replace(`"${username}"`, '['.repeat(5000) + ']'.repeat(5000))),
      invalid('body/username must be string.'),
    ],
    ['8,000 lists without an end', () => '['.repeat(8000), notJson],
    ['16,385 bytes', make((text) => text + ' '.repeat(16_385 - text.length)), refusal('payload_too_large')],
  ]
  for (const path of ['/register', '/login']) {
    await assertRefused(
      t,
      cases.map(([name, body, expected]) => {
        const user = path === '/login' ? known : newcomer()
        return [`${path}: ${name}`, withBody(`POST ${path}`, body(user)), expected]
      }),
    )
  }
  const text = JSON.stringify(newcomer())
  const full = text + ' '.repeat(16_384 - text.length)
  t.equal((await exchange(url, withBody('POST /register', full))).status, 201, '16,384 bytes are taken')
})

t.test('a body that is not announced as JSON is not looked at', async (t) => {
  const unsupported = refusal('unsupported_media_type')
  const types: [string, readonly string[], Refusal][] = [
    ['a form', ['content-type: application/x-www-form-urlencoded'], unsupported],
    ['text', ['content-type: text/plain'], unsupported],
    ['text that says JSON', ['content-type: text/plain; application/json'], unsupported],
    ['parts', ['content-type: multipart/form-data; boundary=x'], unsupported],
    ['XML', ['content-type: application/xml'], unsupported],
    ['another JSON', ['content-type: application/json5'], unsupported],
    ['a kind of JSON', ['content-type: application/vnd.api+json'], unsupported],
    ['two types', ['content-type: application/json, text/plain'], unsupported],
    ['a tab in the type', ['content-type: application/json\tx'], unsupported],
    ['rubbish', ['content-type: ;;;'], unsupported],
    ['an empty type', ['content-type:'], unsupported],
    ['no type', [], unsupported],
  ]
  const { username, password } = newcomer()
  const text = JSON.stringify({ username, password })
  await assertRefused(
    t,
    types.flatMap(([name, headers, expected]) =>
      ['/register', '/login'].map(
        (path) =>
          [
            `${path}: ${name}`,
            withBody(`POST ${path}`, path === '/login' ? JSON.stringify(known) : text, headers),
            expected,
          ] as const,
      ),
    ),
  )
  const absent = invalid('body must be object.')
  await assertRefused(t, [
    ['an empty JSON body', withBody('POST /register', ''), absent],
    [
      'an empty JSON body in chunks',
      request('POST /register', [json, 'transfer-encoding: chunked'], '0\r\n\r\n'),
      absent,
    ],
    ['no body', request('POST /register'), absent],
    ['no body, at login', request('POST /login'), absent],
    [
      '16,385 bytes in chunks',
      request(
        'POST /register',
        [json, 'transfer-encoding: chunked'],
        `4001\r\n${' '.repeat(16_385)}\r\n0\r\n\r\n`,
      ),
      refusal('payload_too_large'),
    ],
  ])
})

t.test('a second Authorization header is seen behind any number of others', async (t) => {
  const others = Array.from({ length: 2_100 }, () => 'a:b')
  await assertRefused(t, [
    [
      'at a guarded route',
      request('GET /protected', [authorization, ...others, 'Authorization: Bearer x']),
      refusal('malformed_authorization'),
    ],
  ])
})

t.test('what is not HTTP is answered and dropped, though its sender hangs on', async (t) => {
  const { app, url } = await startInstance(t, { stores })
  const { hostname, port } = new URL(url)
  const count = () => new Promise<number>((done) => app.server.getConnections((_error, count) => done(count)))
  const sockets = ['GARBAGE\r\n\r\n', 'CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n'].map((bytes) => {
    const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true }, () =>
      socket.write(bytes),
    )
    t.teardown(() => socket.destroy())
    return socket.on('error', () => {}).resume()
  })
  await Promise.all(sockets.map((socket) => once(socket, 'end')))
  await eventually(t, async () => (await count()) === 0, 2_000)
})

t.test('credentials in a header that are not quite Basic are refused', async (t) => {
  const encode = (text: Bytes) => Buffer.from(text).toString('base64')
  const good = encode(`${known.username}:${known.password}`)
  const malformed = invalid('Basic credentials are base64 of username:password in UTF-8.')
  const several = invalid('Send one Authorization header.')
  const headers: [string, readonly string[], Refusal][] = [
    ['nothing', ['authorization: Basic'], malformed],
    ['two words', [`authorization: Basic ${good} ${good}`], malformed],
    ['no colon', [`authorization: Basic ${encode('somebody')}`], malformed],
    ['not encoded', [`authorization: Basic ${known.username}:${known.password}`], malformed],
    [
      'characters that base64 does not have',
      [`authorization: Basic ${good.slice(0, 4)}*${good.slice(4)}`],
      malformed,
    ],
    [
      'base64url',
      [`authorization: Basic ${encode(Buffer.from([0xfb, 0xef, 0xbe])).replace('+', '-')}`],
      malformed,
    ],
    ['something behind the padding', [`authorization: Basic ${encode('ab:c')}=x`], malformed],
    ['not UTF-8', [`authorization: Basic ${encode(Buffer.from('caf\xe9:password', 'latin1'))}`], malformed],
    [
      'half a pair',
      [`authorization: Basic ${encode(Buffer.from([0x61, 0x3a, 0xed, 0xa0, 0x80]))}`],
      malformed,
    ],
    ['NUL', [`authorization: Basic ${encode(`${known.username}\0:${known.password}`)}`], malformed],
    ['two of them', [`authorization: Basic ${good}`, `authorization: Basic ${encode('a:b')}`], several],
    ['one behind a token', [authorization, `authorization: Basic ${good}`], several],
    ['another scheme', [`authorization: Digest ${good}`], invalid('body must be object.')],
    [
      'a name that is too long',
      [`authorization: Basic ${encode(`${'u'.repeat(1025)}:${known.password}`)}`],
      invalid('body/username must NOT have more than 1024 characters.'),
    ],
  ]
  await assertRefused(
    t,
    headers.map(([name, fields, expected]) => [name, request('POST /login', fields), expected]),
  )
  const both = invalid('Send credentials in the header or in the body, not in both.')
  const header = `authorization: Basic ${good}`
  await assertRefused(t, [
    ['with a body of its own', withBody('POST /login', JSON.stringify(known), [json, header]), both],
    ['with an empty object', withBody('POST /login', '{}', [json, header]), both],
    ['with null', withBody('POST /login', 'null', [json, header]), both],
    ['with a form', withBody('POST /login', 'a=b', [header]), refusal('unsupported_media_type')],
    ['at registration', request('POST /register', [header]), invalid('body must be object.')],
  ])
})

t.test('a request that is not HTTP, or that two servers would cut differently, is refused', async (t) => {
  const user = JSON.stringify(newcomer())
  const post = (...headers: string[]) => request('POST /register', [json, ...headers], user)
  const chunked = 'transfer-encoding: chunked'
  const length = `content-length: ${user.length}`
  const allowed = (line: string) => [line, request(line), refusal('method_not_allowed')] as const
  await assertRefused(t, [
    ['a TLS handshake', Buffer.from('16030100a5010000a10303', 'hex'), invalid()],
    ['a greeting', 'EHLO example.org\r\n\r\n', invalid()],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', invalid()],
    ['NUL bytes', Buffer.alloc(64), invalid()],
    ['random bytes', Buffer.from(`\xff\xfe\x00\x01 rubbish\r\n\r\n`, 'latin1'), invalid()],
    ['a method that nobody knows', request('FROBNICATE /login'), invalid()],
    ['a method in small letters', request('post /login'), invalid()],
    ['no path', 'GET HTTP/1.1\r\nhost: x\r\n\r\n', invalid()],
    ['no host', 'GET /health/live HTTP/1.1\r\nconnection: close\r\n\r\n', invalid()],
    [
      'a space before the colon',
      request('GET /protected', [`authorization : Bearer ${known.token}`]),
      invalid(),
    ],
    ['a folded header', request('GET /health/live', ['x: a\r\n b']), invalid()],
    ['a NUL in a header', request('GET /health/live', ['x: a\0b']), invalid()],
    ['a bare CR in a header', request('GET /health/live', ['x: a\rb']), invalid()],
    ['a length and chunks', post(length, chunked), invalid()],
    ['two lengths', post(length, `content-length: ${user.length + 1}`), invalid()],
    ['a negative length', post('content-length: -1'), invalid()],
    ['a length beyond all bounds', post('content-length: 99999999999999999999'), invalid()],
    ['a length that is no number', post('content-length: 0x10'), invalid()],
    ['a coding that nobody knows', post('transfer-encoding: gzip'), invalid()],
    ['a chunk of no length', request('POST /register', [json, chunked], 'zz\r\n{}\r\n0\r\n\r\n'), invalid()],
    [
      'an expectation',
      request('POST /register', [json, length, 'expect: a-miracle'], user),
      refusal('expectation_failed'),
    ],
    [
      'headers over 16 kB',
      request('GET /health/live', [`x: ${'x'.repeat(16_384)}`]),
      refusal('headers_too_large'),
    ],
    [
      'many headers over 16 kB',
      request('GET /health/live', Array(1000).fill('x: 0123456789abcdef')),
      refusal('headers_too_large'),
    ],
    [
      'a token over 16 kB',
      request('GET /protected', [`authorization: Bearer ${'x'.repeat(16_384)}`]),
      refusal('headers_too_large'),
    ],
    ['a path over 16 kB', request(`GET /${'x'.repeat(16_384)}`), refusal('headers_too_large')],
    ['a long path', request(`GET /${'x/'.repeat(7000)}`), refusal('not_found')],
    ['a query over 16 kB', request(`POST /logout?scope=${'x'.repeat(16_384)}`), refusal('headers_too_large')],
    ['a percent sign alone', request('GET /%'), invalid()],
    ['an encoding that is none', request('POST /login%zz'), invalid()],
    ['an encoding that is no UTF-8', request('GET /protected%ff'), invalid()],
    ['an encoded NUL', request('GET /protected%00', [authorization]), refusal('not_found')],
    ['a way up', request('GET /../../etc/passwd'), refusal('not_found')],
    ['a way up, encoded', request('GET /%2e%2e/%2e%2e/etc/passwd'), refusal('not_found')],
    ['a way up and down again', request('GET /health/../protected'), refusal('not_found')],
    ['a way with backslashes', request('GET /..\\..\\package.json'), refusal('not_found')],
    ['a slash too many', request('GET //protected'), refusal('not_found')],
    [
      'a parameter of the path',
      request('GET /protected;jsessionid=1', [authorization]),
      refusal('not_found'),
    ],
    ['a path without a slash', request('GET protected', [authorization]), invalid()],
    ['the whole server', request('OPTIONS *'), refusal('not_found')],
    ['a tunnel', request('CONNECT example.org:443'), invalid()],
    ...['PROPFIND /login', 'TRACE /login', 'LOCK /protected', 'PURGE /me', 'QUERY /register'].map(allowed),
    ...['OPTIONS /login', 'PUT /login', 'PATCH /me', 'DELETE /logout', 'GET /logout'].map(allowed),
    ['a body for a method that is not there', withBody('PUT /register', user), refusal('method_not_allowed')],
  ])
  const { headers } = await exchange(url, request('PROPFIND /login', [authorization]))
  t.equal(headers.get('allow'), 'POST')
})

t.test('the body of a GET is never taken for the next request', async (t) => {
  const hidden = request('POST /logout', [authorization]).toString('latin1')
  const reply = await exchange(url, withBody('GET /protected', hidden, [authorization]))
  t.equal(reply.rest, '')
  t.equal((await getProtected(url, known.token)).status, 200)
  const anonymous = await exchange(url, withBody('GET /protected', '{"access_token":"x"}'))
  t.strictSame(refusalOf(anonymous), refusal('missing_token'))
})

t.test('who sends no end of headers is not waited for', async (t) => {
  const started = performance.now()
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  socket.write('GET /health/live HTTP/1.1\r\nhost: x\r\nx: ')
  const drip = setInterval(() => socket.writable && socket.write('x'), 200)
  t.teardown(() => {
    clearInterval(drip)
    socket.destroy()
  })
  let said = ''
  for await (const chunk of socket) said += chunk
  clearInterval(drip)
  t.ok(performance.now() - started < 7_500)
  const [head = '', body = ''] = said.split('\r\n\r\n')
  t.match(head, /^HTTP\/1\.1 408 Request Timeout\r\nContent-Type: application\/problem\+json\r\n/)
  t.strictSame({ ...JSON.parse(body), request_id: 'given' }, refusal('request_timeout').body)
})

t.test('a client that hangs up halfway is no fault of the service', async (t) => {
  const before = log.length
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  socket.end(request('POST /register', [json, 'content-length: 100'], '{"username":'))
  for await (const _ of socket);
  t.equal((await call(url, '/health/live')).status, 200)
  t.strictSame(
    log.slice(before).filter((line) => JSON.parse(line).level > 30),
    [],
  )
})

t.test('a fault of the service is told to nobody but the log, and not all of it there', async (t) => {
  const stores = await postgresAndRedis(t)
  const database = new URL(stores.env.DATABASE_URL as string)
  database.password = 'the-password-of-postgres'
  const redis = await startRedis()
  t.teardown(redis.stop)
  await withRedis(redis.url, (admin) => admin.config('SET', 'requirepass', 'something-else'))
  const redisUrl = new URL(redis.url)
  redisUrl.password = 'the-password-of-redis'
  const env = { DATABASE_URL: database.href, REDIS_URL: redisUrl.href }
  const { url, app, log } = await startInstance(t, { stores, env })
  const sql = (text: string) => withClient(database.href, (client) => client.query(text))

  const user = newcomer()
  const { token, refreshToken } = await registerAndLogIn(url, user)
  const other = await logIn(url, user)
  const wrong = newcomer()
  const secrets = new Map<string, string>([
    ['the password of an account', user.password],
    ['a password that was wrong', wrong.password],
    ['the token', token],
    ['its signature', token.split('.')[2] as string],
    ['the refresh token', refreshToken],
    ['the other token', other.token],
    ['the other refresh token', other.refreshToken],
    ['Basic credentials', Buffer.from(`${user.username}:${user.password}`).toString('base64')],
    ['a hash', '$argon2'],
    ['the password of Postgres', database.password],
    ['the password of Redis', redisUrl.password],
    ['what cancels a query', 'secretKey'],
    ['the secret that seals keys', stores.env.KEY_ENCRYPTION_SECRET as string],
    ['a private key', 'PRIVATE'],
  ])
  const { rows } = await sql(`select kid, sealed_private_key, public_jwk from signing_keys`)
  const [key] = rows
  const der = app.database.sealer.open(`signing key ${key.kid}`, key.sealed_private_key)
  secrets
    .set('the signing key', der.toString('base64'))
    .set('the signing key, sealed', key.sealed_private_key.toString('hex'))

  const failing: [string, Promise<Reply>][] = []
  const attempt = async (name: string, asking: Promise<Reply>) => {
    failing.push([name, asking])
    await asking
  }
  const refused: Promise<Reply>[] = [
    post(url, '/login', { ...user, password: wrong.password }),
    post(url, '/login', wrong),
    post(url, '/register', { ...user, password: wrong.password }),
    post(url, '/register', { ...wrong, more: wrong.password }),
    post(url, '/register', `{"username":"${wrong.username}","password":"${wrong.password}`),
    post(url, '/register', { ...wrong, username: `${wrong.password} with spaces` }),
    post(url, `/login?password=${wrong.password}`, {}),
    post(url, '/login', undefined, { authorization: `Basic ${wrong.password}` }),
    call(url, `/${wrong.password}`),
    call(url, '/protected', { headers: bearer(`${token}x`) }),
    call(url, '/protected', { headers: { authorization: `Bearer ${token} ${token}` } }),
    call(url, '/protected', { headers: { cookie: `refresh_token=${refreshToken}` } }),
    exchange(url, request('GET /protected', [`authorization : Bearer ${token}`])),
    exchange(url, request('GET /protected', [authorization, `x: ${token.repeat(50)}`])),
  ]
  for (const { status } of await Promise.all(refused)) t.ok(status >= 400 && status < 500, `${status}`)

  await sql(`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()`)
  await eventually(t, async () => (await post(url, '/login', user)).status === 200)

  await sql(
    `alter table users add column note text not null default ''; alter table users alter column note drop default`,
  )
  await attempt('an insert that fails', post(url, '/register', newcomer()))
  await sql(`alter table refresh_tokens add constraint none check (session_id is null) not valid`)
  await attempt('a session that fails', post(url, '/login', user))
  await sql('alter table sessions rename to old_sessions')
  await attempt('a logout that fails', post(url, '/logout', undefined, bearer(other.token)))
  await sql('alter table users rename column email to mail')
  await attempt('a look-up that fails', post(url, '/login', user))
  await attempt('a page that fails', call(url, '/me', { headers: bearer(token) }))

  for (const [name, asking] of failing) {
    const reply = await asking
    t.strictSame(refusalOf(reply), refusal('internal_error'), name)
    const line = log.find(
      (line) => JSON.parse(line).reqId === reply.body.request_id && JSON.parse(line).level === 50,
    )
    t.match(
      line && JSON.parse(line),
      { code: 'internal_error', err: { stack: String } },
      `${name}: the log knows more`,
    )
  }
  const text = log.join('')
  t.ok(text.includes('login.failed') && text.includes('request refused'), 'the log was listening')
  for (const [name, secret] of secrets) {
    t.strictSame(
      log.filter((line) => line.includes(secret)),
      [],
      `${name} is in no line`,
    )
  }
})

t.test('after all that, no password and no token is in the log', async (t) => {
  const text = log.join('')
  t.ok(log.length > 200, 'the log was listening, at every level')
  const faults = log.filter((line) => /"level":[456]0/.test(line))
  t.strictSame(faults, [], 'nothing was a fault of the service')
  const secrets = [...passwords, known.token, known.refreshToken, '$argon2', 'PRIVATE', 'Bearer ey']
  t.strictSame(
    secrets.filter((secret) => text.includes(secret)),
    [],
  )
})
