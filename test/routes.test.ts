/** The contract of every route, as a client meets it, on both pairs of stores. */
import { randomUUID } from 'node:crypto'
import {
  createLocalJWKSet,
  decodeJwt,
  decodeProtectedHeader,
  generateKeyPair,
  jwtVerify,
  SignJWT,
} from 'jose'
import t, { type Test } from 'tap'
import { createManualClock, embedded, postgresAndRedis, randomUser, startInstance } from './fixtures/app.ts'
import {
  assertLifetime,
  bearer,
  call,
  exchange,
  getProtected,
  logIn,
  logOut,
  post,
  type Refusal,
  type Reply,
  refusal,
  refusalOf,
  registerAndLogIn,
} from './fixtures/client.ts'
import { eventually } from './fixtures/eventually.ts'
import { startPostgres, startRedis } from './fixtures/servers.ts'

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
const issuer = 'https://auth.test'
const day = 86_400

const basic = (username: string, password: string) => ({
  authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`,
})

function assertRefused(t: Test, reply: Reply, expected: Refusal, name: string): void {
  t.strictSame(refusalOf(reply), expected, name)
  t.equal(reply.headers.get('cache-control'), 'no-store', `${name}: kept by nobody`)
}

for (const storesOf of [postgresAndRedis, embedded]) {
  t.test(storesOf === embedded ? 'embedded' : 'Postgres and Redis', async (t) => {
    const stores = await storesOf(t)
    const clock = createManualClock()
    const instance = await startInstance(t, { stores, clock })
    const { url } = instance
    const inSeconds = () => Math.floor(clock.now() / 1000)

    t.test('an account is registered, logged into, used and logged out of', async (t) => {
      const user = randomUser()
      const registered = await post(url, '/register', { ...user, username: user.username.toUpperCase() })
      t.equal(registered.status, 201)
      t.equal(registered.headers.get('content-type'), 'application/json; charset=utf-8')
      t.match(registered.body.id, uuid)
      const account = {
        id: registered.body.id,
        username: user.username,
        roles: [],
        created_at: new Date(clock.now()).toISOString(),
      }
      t.strictSame(registered.body, account, 'told in its canonical form, without the password')

      const byBody = await post(url, '/login', user)
      const byHeader = await post(url, '/login', undefined, basic(user.username, user.password))
      for (const { status, headers, body } of [byBody, byHeader]) {
        t.equal(status, 200)
        t.equal(headers.get('cache-control'), 'no-store')
        t.equal(headers.get('content-type'), 'application/json; charset=utf-8')
        t.match(body.access_token, /^[\w-]+\.[\w-]+\.[\w-]{86}$/)
        t.match(body.refresh_token, /^[\w-]{43}$/)
        t.match(body.session_id, uuid)
        t.strictSame(body, {
          access_token: body.access_token,
          token_type: 'Bearer',
          expires_in: body.expires_in,
          refresh_token: body.refresh_token,
          refresh_expires_in: day / 2,
          session_id: body.session_id,
        })
        assertLifetime(t, body.expires_in, 900)
      }
      for (const name of ['access_token', 'refresh_token', 'session_id']) {
        t.not(byBody.body[name], byHeader.body[name], `${name} of every login is another`)
      }

      const { access_token: token, session_id: sid } = byBody.body
      const held = await getProtected(url, token)
      t.equal(held.status, 200)
      t.strictSame(held.body, {
        sub: account.id,
        sid,
        roles: [],
        exp: inSeconds() + byBody.body.expires_in,
      })
      const me = await call(url, '/me', { headers: bearer(token) })
      t.equal(me.status, 200)
      t.strictSame(me.body, account)
      t.equal(me.headers.get('cache-control'), 'no-store')

      const left = await logOut(url, token)
      t.equal(left.status, 204)
      t.equal(left.body, '')
      t.equal(left.headers.get('content-type'), null)
      for (const path of ['/protected', '/me']) {
        assertRefused(t, await call(url, path, { headers: bearer(token) }), refusal('token_revoked'), path)
      }
      t.equal((await getProtected(url, byHeader.body.access_token)).status, 200, 'the other session goes on')
    })

    t.test('tokens of those who began together end one by one, and none later than is set', async (t) => {
      const user = randomUser()
      await post(url, '/register', user)
      const lifetimes = new Set<number>()
      for (let login = 0; login < 20; login++) {
        const { body } = await post(url, '/login', user)
        assertLifetime(t, body.expires_in, 900)
        lifetimes.add(body.expires_in)
      }
      t.ok(lifetimes.size > 5, `${lifetimes.size} of 20 are different`)
    })

    t.test('an e-mail address is kept and told to its owner, and stands in no token', async (t) => {
      const user = randomUser()
      const email = `${randomUUID()}@example.org`
      const registered = await post(url, '/register', { ...user, email })
      t.equal(registered.status, 201)
      t.equal(registered.body.email, email)
      const { token } = await logIn(url, user)
      t.strictSame((await call(url, '/me', { headers: bearer(token) })).body, registered.body)
      const claims = JSON.stringify(decodeJwt(token))
      t.notOk(claims.includes(email) || claims.includes(user.username))
    })

    t.test('a token says exactly what RFC 9068 and the session say', async (t) => {
      const { token, sid, id } = await registerAndLogIn(url)
      const { body: jwks } = await call(url, '/.well-known/jwks.json')
      t.strictSame(decodeProtectedHeader(token), { alg: 'ES256', kid: jwks.keys[0].kid, typ: 'at+jwt' })
      const { payload } = await jwtVerify(token, createLocalJWKSet(jwks), {
        issuer,
        audience: issuer,
        typ: 'at+jwt',
        algorithms: ['ES256'],
        currentDate: new Date(clock.now()),
      })
      t.match(payload.jti, uuid)
      t.strictSame(payload, {
        iss: issuer,
        aud: issuer,
        sub: id,
        client_id: 'latchkey',
        iat: inSeconds(),
        exp: payload.exp,
        jti: payload.jti,
        sid,
        ver: 1,
        roles: [],
        auth_time: inSeconds(),
        amr: ['pwd'],
        acr: 'aal1',
      })
    })

    t.test('the keys are public, can be kept for a while and be asked for again cheaply', async (t) => {
      const { status, headers, body } = await call(url, '/.well-known/jwks.json')
      t.equal(status, 200)
      t.equal(headers.get('cache-control'), 'public, max-age=300')
      t.equal(headers.get('content-type'), 'application/json; charset=utf-8')
      const [key] = body.keys
      for (const coordinate of [key.x, key.y, key.kid]) t.match(coordinate, /^[\w-]{43}$/)
      const { x, y, kid } = key
      t.strictSame(
        body,
        { keys: [{ kty: 'EC', crv: 'P-256', x, y, kid, alg: 'ES256', use: 'sig' }] },
        'no private member',
      )

      const etag = headers.get('etag') as string
      t.match(etag, /^"[\w-]+"$/)
      for (const known of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
        const again = await call(url, '/.well-known/jwks.json', { headers: { 'if-none-match': known } })
        t.equal(again.status, 304, known)
        t.equal(again.body, '')
        t.equal(again.headers.get('etag'), etag)
        t.equal(again.headers.get('cache-control'), 'public, max-age=300')
      }
      const other = await call(url, '/.well-known/jwks.json', { headers: { 'if-none-match': '"other"' } })
      t.strictSame([other.status, other.body], [200, body])
    })

    t.test('who asks how the service is gets an answer', async (t) => {
      const live = await call(url, '/health/live')
      t.strictSame([live.status, live.body], [200, { status: 'live' }])
      const ready = await call(url, '/health/ready')
      const mode = storesOf === embedded ? 'tail' : 'tail and index'
      t.strictSame([ready.status, ready.body], [200, { status: 'ready', mode, missing: [] }])
    })

    t.test('what is not there is not found, and what is there says what can be done with it', async (t) => {
      for (const path of ['/', '/nothing', '/login/', '/LOGIN', '//login', '/login/x', '/.well-known/']) {
        for (const method of ['GET', 'POST', 'DELETE']) {
          assertRefused(t, await call(url, path, { method }), refusal('not_found'), `${method} ${path}`)
        }
      }
      const routes = {
        '/register': ['POST'],
        '/login': ['POST'],
        '/login/mfa': ['POST'],
        '/password/forgot': ['POST'],
        '/logout': ['POST'],
        '/protected': ['GET', 'HEAD'],
        '/me': ['GET', 'HEAD'],
        '/.well-known/jwks.json': ['GET', 'HEAD'],
        '/health/live': ['GET', 'HEAD'],
        '/health/ready': ['GET', 'HEAD'],
      }
      for (const [path, methods] of Object.entries(routes)) {
        for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'QUERY', 'PROPFIND']) {
          if (methods.includes(method)) continue
          const reply = await call(url, path, { method })
          assertRefused(t, reply, refusal('method_not_allowed'), `${method} ${path}`)
          t.strictSame(reply.headers.get('allow')?.split(', ').sort(), methods, `Allow of ${path}`)
        }
      }
    })

    t.test('a username that may not be chosen is refused with a reason', async (t) => {
      const { password } = randomUser()
      const rules = refusal(
        'invalid_request',
        'A username has 3 to 64 visible characters, without spaces or colons.',
      )
      const names = {
        'nothing at all': '',
        'two characters': 'ab',
        'two characters of two UTF-16 units each': '🜁🜂',
        '65 characters': 'a'.repeat(65),
        '33 characters that fold to 66': 'ß'.repeat(33),
        'a space': 'some body',
        'a space in front': ' somebody',
        'a no-break space': 'some\u00a0body',
        'an ideographic space': 'some\u3000body',
        'a colon': 'some:body',
        'a full-width colon': 'some\uff1abody',
        'a tab': 'some\tbody',
        'a line break': 'some\nbody',
        'a C1 control': 'some\u0085body',
        'a delete': 'some\u007fbody',
        'a bidi override': 'some\u202ebody',
        'a bidi isolate': 'some\u2066body',
        'a zero-width space': 'some\u200bbody',
        'a zero-width joiner': 'some\u200dbody',
        'a byte order mark': '\ufeffsomebody',
        'a soft hyphen': 'some\u00adbody',
        'a Hangul filler': 'some\u3164body',
        'a variation selector': 'some\ufe0fbody',
        'a tag character': 'some\u{e0041}body',
        'a private character': 'some\ue000body',
        'an unassigned character': 'some\u0378body',
      }
      for (const [name, username] of Object.entries(names)) {
        assertRefused(t, await post(url, '/register', { username, password }), rules, name)
        const login = await post(url, '/login', { username, password })
        assertRefused(t, login, refusal('invalid_credentials'), `${name}, at login`)
      }
    })

    t.test('a password that may not be chosen is refused with a reason', async (t) => {
      const weak = refusal(
        'weak_password',
        'A password needs at least 15 characters. A few words that only you would put together will do.',
      )
      const long = refusal('invalid_request', 'A password may have at most 256 characters.')
      const cases: [string, string, Refusal][] = [
        ['nothing at all', '', weak],
        ['14 characters', 'p'.repeat(14), weak],
        ['14 characters of two UTF-16 units each', '🜁'.repeat(14), weak],
        ['14 characters written as 28', 'e\u0301'.repeat(14), weak],
        ['257 characters', 'p'.repeat(257), long],
        ['257 characters of two UTF-16 units each', '🜁'.repeat(257), long],
      ]
      const { username } = randomUser()
      for (const [name, password, expected] of cases) {
        assertRefused(t, await post(url, '/register', { username, password }), expected, name)
      }
      const registered = await post(url, '/register', { username, password: `${'p'.repeat(14)}q` })
      t.equal(registered.status, 201, 'none of them took the name')
    })

    t.test('names and passwords of every allowed length log in, counted in characters', async (t) => {
      const tail = randomUUID()
      const cases = {
        'a name of three': { username: 'x🜁y', password: `${'p'.repeat(14)}q` },
        'a name of 64': { username: `${tail}${'n'.repeat(28)}`, password: `${'p'.repeat(14)}q` },
        'a name of 64 that takes 256 bytes': { username: '🜁'.repeat(64), password: `${'🜁'.repeat(14)}🜂` },
        'a password of 256': { ...randomUser(), password: `${'p'.repeat(255)}q` },
        'a password of 256 that takes 1024 bytes': { ...randomUser(), password: `${'🜁'.repeat(255)}🜂` },
        'a password of 256 written as 767': {
          ...randomUser(),
          password: `\u00e9${'\u01d6'.repeat(255)}`.normalize('NFD'),
        },
        'a password of spaces, colons and quotes': { ...randomUser(), password: ' :"\\ \u00a0::{}"x":"y" ' },
      }
      for (const [name, user] of Object.entries(cases)) {
        t.equal((await post(url, '/register', user)).status, 201, name)
        t.equal((await post(url, '/login', user)).status, 200, name)
        const login = await post(url, '/login', undefined, basic(user.username, user.password))
        t.equal(login.status, 200, `${name}, by HTTP Basic`)
      }
    })

    t.test('every character of a password counts, the last of 256 too', async (t) => {
      const user = { ...randomUser(), password: 'qkdnwmzptvhxjbrc'.repeat(16) }
      await registerAndLogIn(url, user)
      const others = Array.from(user.password, (_, i) => {
        return `${user.password.slice(0, i)}#${user.password.slice(i + 1)}`
      })
      others.push(user.password.slice(0, -1), `${user.password}p`, user.password.toUpperCase(), '')
      for (let i = 0; i < others.length; i += 20) {
        const statuses = await Promise.all(
          others.slice(i, i + 20).map(async (password) => {
            return (await post(url, '/login', { ...user, password })).status
          }),
        )
        t.ok(
          statuses.every((status) => status === 401),
          `variants ${i} and following: ${statuses.join(' ')}`,
        )
        // Or there are too many in a row.
        await logIn(url, user)
      }
    })

    t.test('however a keyboard composes it, it is the same name and the same password', async (t) => {
      const tail = randomUUID().slice(0, 8)
      const [composed, decomposed] = ['\u00e9', 'e\u0301']
      const registered = {
        username: `Straße-Ångström-ﬁn-Σίσυφος-${composed}-${tail}`,
        password: `${composed} is typed in two ways`,
      }
      const account = await post(url, '/register', registered)
      t.equal(account.status, 201)
      t.equal(account.body.username, `strasse-ångström-fin-σίσυφος-é-${tail}`)
      const names = {
        'as told': account.body.username,
        'as registered': registered.username,
        'upper case': registered.username.toUpperCase(),
        'lower case': registered.username.toLowerCase(),
        decomposed: registered.username.normalize('NFD'),
        'the Angstrom sign': registered.username.replace('Å', '\u212b'),
        'capital sharp s': registered.username.replace('ß', 'ẞ'),
        'full-width letters': fullWidth(registered.username),
        'another sigma': registered.username.replaceAll('ς', 'σ'),
      }
      for (const [name, username] of Object.entries(names)) {
        const login = await post(url, '/login', { ...registered, username })
        t.equal(login.status, 200, name)
        const taken = await post(url, '/register', { ...randomUser(), username })
        assertRefused(t, taken, refusal('username_taken'), name)
      }
      const login = (password: string) => post(url, '/login', { ...registered, password })
      t.equal((await login(registered.password.replace(composed, decomposed))).status, 200)
      const wrong = { 'no accent': 'e', 'upper case': '\u00c9', 'compatible only': '\uff45\u0301' }
      for (const [name, letter] of Object.entries(wrong)) {
        const reply = await login(registered.password.replace(composed, letter))
        assertRefused(t, reply, refusal('invalid_credentials'), name)
      }
    })

    t.test('forty who want one name at once, however they spell it, are one account', async (t) => {
      const name = `racer-é-${randomUUID()}`
      const spellings = [name, name.toUpperCase(), name.normalize('NFD'), fullWidth(name)]
      const racers = Array.from({ length: 40 }, (_, i) => ({
        username: spellings[i % spellings.length] as string,
        password: randomUser().password,
      }))
      const replies = await Promise.all(racers.map((racer) => post(url, '/register', racer)))
      const winners = replies.filter(({ status }) => status === 201)
      t.equal(winners.length, 1)
      t.equal(winners[0]?.body.username, name)
      for (const reply of replies) {
        if (reply !== winners[0]) t.strictSame(refusalOf(reply), refusal('username_taken'))
      }
      const logins = await Promise.all(
        racers.map((racer) => post(url, '/login', { ...racer, username: name })),
      )
      t.strictSame(
        logins.map(({ status }) => status === 200),
        replies.map(({ status }) => status === 201),
        'and only the password of the one that was told so opens it',
      )
    })

    t.test('a failed login tells nothing about who exists', async (t) => {
      const user = randomUser()
      await registerAndLogIn(url, user)
      const wrong = randomUser()
      const replies = [
        await post(url, '/login', { ...user, password: wrong.password }),
        await post(url, '/login', wrong),
        await post(url, '/login', { username: 'no good:name', password: user.password }),
        await post(url, '/login', { ...user, password: '' }),
        await post(url, '/login', { username: '', password: '' }),
        await post(url, '/login', undefined, basic(user.username, wrong.password)),
        await post(url, '/login', undefined, basic(wrong.username, wrong.password)),
        await post(url, '/login', undefined, basic('', '')),
      ]
      for (const reply of replies) assertRefused(t, reply, refusal('invalid_credentials'), 'refused')
      const [ids, shapes] = [new Set<string>(), new Set<string>()]
      for (const { headers, body } of replies) {
        ids.add(body.request_id)
        shapes.add(
          JSON.stringify([...headers].filter(([name]) => name !== 'date' && name !== 'content-length')),
        )
      }
      t.equal(ids.size, replies.length, 'every request has an id of its own')
      t.equal(shapes.size, 1, 'the headers are the same')
    })

    t.test(
      'credentials in the header are one way to log in, not a second one next to the body',
      async (t) => {
        const user = randomUser()
        await registerAndLogIn(url, user)
        const good = basic(user.username, user.password).authorization
        const encoded = good.slice('Basic '.length)
        for (const header of [good, `basic ${encoded}`, `BASIC  ${encoded}`, good.replace(/=+$/, '')]) {
          const reply = await post(url, '/login', undefined, { authorization: header })
          t.equal(reply.status, 200, header.slice(0, 7))
        }
        const empty = await post(url, '/login', '', basic(user.username, user.password))
        t.equal(empty.status, 200, 'an empty body of a named type is no body')
        const both = refusal('invalid_request', 'Send credentials in the header or in the body, not in both.')
        for (const body of [user, {}, 'null']) {
          assertRefused(
            t,
            await post(url, '/login', body, { authorization: good }),
            both,
            JSON.stringify(body),
          )
        }
        t.equal((await post(url, '/login', user, bearer('of-old'))).status, 200, 'an old token does no harm')
      },
    )

    t.test('a token is refused for what is wrong with it, row by row', async (t) => {
      const { token } = await registerAndLogIn(url)
      const { token: dead } = await registerAndLogIn(url)
      t.equal((await logOut(url, dead)).status, 204)
      const { token: other } = await registerAndLogIn(url)

      const live = ['Bearer', 'bearer', 'BEARER', 'Bearer '].map((scheme) => [`${scheme} ${token}`])
      const rows: [keyof typeof problems, string[]][] = [
        ['missing_token', []],
        ['missing_token', ['']],
        ['missing_token', [token]],
        ['missing_token', [basic('somebody', 'something').authorization]],
        ['missing_token', [`DPoP ${token}`]],
        ['missing_token', [`Bearer,${token}`]],
        ['malformed_authorization', ['Bearer']],
        ['malformed_authorization', ['Bearer    ']],
        ['malformed_authorization', [`Bearer ${token} ${token}`]],
        ['malformed_authorization', [`Bearer ${token}, Bearer ${other}`]],
        ['malformed_authorization', [`Bearer ${token}`, `Bearer ${token}`]],
        ['malformed_authorization', [`Bearer ${token}`, `Bearer ${other}`]],
        ['malformed_authorization', [basic('a', 'b').authorization, `Bearer ${token}`]],
        ['malformed_authorization', ['', `Bearer ${token}`]],
        ['token_invalid', ['Bearer x']],
        ['token_invalid', ['Bearer ..']],
        ['token_invalid', [`Bearer ${token}=`]],
        ['token_invalid', [`Bearer "${token}"`]],
        ['token_invalid', [`Bearer ${token.slice(0, -5)}`]],
        ['token_invalid', [`Bearer ${token.slice(0, token.lastIndexOf('.') + 1)}`]],
        ['token_revoked', [`Bearer ${dead}`]],
      ]
      const problems = {
        missing_token: refusal('missing_token'),
        malformed_authorization: refusal('malformed_authorization'),
        token_invalid: refusal('token_invalid'),
        token_revoked: refusal('token_revoked'),
      }
      for (const path of ['/protected', '/me']) {
        for (const headers of live) {
          t.equal((await get(url, path, headers)).status, 200, `${path} ${headers[0]?.slice(0, 8)}`)
        }
        for (const [code, headers] of rows) {
          const name = `${path} ${code}: ${headers.map((header) => header.slice(0, 12)).join(' and ')}`
          assertRefused(t, await get(url, path, headers), problems[code], name)
        }
      }
    })

    t.test('a token is good until its end and five seconds, then expired and no worse', async (t) => {
      const user = randomUser()
      const { token } = await registerAndLogIn(url, user)
      const { exp = 0 } = decodeJwt(token)
      clock.advance(exp - 1 - inSeconds())
      t.equal((await getProtected(url, token)).status, 200, 'a second before its end')
      clock.advance(1 + 4)
      t.equal((await getProtected(url, token)).status, 200, 'within the tolerance')
      clock.advance(1)
      for (const path of ['/protected', '/me']) {
        assertRefused(t, await call(url, path, { headers: bearer(token) }), refusal('token_expired'), path)
      }
      const forged = `${token.slice(0, -6)}AAAAAA`
      assertRefused(t, await getProtected(url, forged), refusal('token_invalid'), 'expired and forged')
      t.equal((await getProtected(url, (await logIn(url, user)).token)).status, 200)
    })

    t.test('logging out ends the session once and for all, and may be repeated', async (t) => {
      const user = randomUser()
      const { token } = await registerAndLogIn(url, user)
      const { token: sibling } = await logIn(url, user)
      for (const path of ['/logout', '/logout?scope=session', '/logout', '/logout?']) {
        const reply = await post(url, path, undefined, bearer(token))
        t.strictSame([reply.status, reply.body], [204, ''], path)
        assertRefused(t, await getProtected(url, token), refusal('token_revoked'), path)
      }
      const misspelt = misspell(token)
      t.not(misspelt, token)
      const reply = await getProtected(url, misspelt)
      t.equal(reply.status, 401, 'another spelling of the same signature is as dead')
      t.equal((await getProtected(url, sibling)).status, 200, 'the other session goes on')
      t.equal((await post(url, '/logout', '', bearer(sibling))).status, 204, 'an empty JSON body is no body')
      t.equal(
        (await post(url, '/logout', {}, bearer(sibling))).status,
        204,
        'nor is an object with nothing in it',
      )
      assertRefused(t, await getProtected(url, sibling), refusal('token_revoked'), 'ended')
    })

    t.test('an expired token still ends its session', async (t) => {
      const { token } = await registerAndLogIn(url)
      clock.advance(7 * day)
      t.equal((await logOut(url, token)).status, 204)
      t.equal((await logOut(url, token)).status, 204, 'twice')
      assertRefused(t, await getProtected(url, token), refusal('token_expired'), 'the token')
    })

    t.test('a logout that is not understood ends nothing', async (t) => {
      const { token } = await registerAndLogIn(url)
      const query = refusal(
        'invalid_request',
        'querystring/scope must be equal to one of the allowed values.',
      )
      const list = refusal('invalid_request', 'querystring/scope must be string.')
      const unknown = refusal('invalid_request', 'querystring must NOT have additional properties.')
      const cases: [string, unknown, Refusal][] = [
        ['?scope=nonsense', undefined, query],
        ['?scope=', undefined, query],
        ['?scope=Session', undefined, query],
        ['?scope=session&scope=session', undefined, list],
        ['?scope=%00', undefined, query],
        ['?scope[]=session', undefined, unknown],
        ['?scopes=session', undefined, unknown],
        ['?scope=session&also=this', undefined, unknown],
        ['', { scope: 'all' }, refusal('invalid_request', 'body must NOT have additional properties.')],
        ['', '"all"', refusal('invalid_request', 'body must be object,null.')],
      ]
      for (const [path, content, expected] of cases) {
        const reply = await post(url, `/logout${path}`, content, bearer(token))
        assertRefused(t, reply, expected, `${path} ${JSON.stringify(content)}`)
      }
      t.equal((await getProtected(url, token)).status, 200)

      const rows: [Refusal, string[]][] = [
        [refusal('missing_token'), []],
        [refusal('missing_token'), [basic('somebody', 'something').authorization]],
        [refusal('malformed_authorization'), ['Bearer']],
        [refusal('malformed_authorization'), [`Bearer ${token}`, `Bearer ${token}`]],
        [refusal('token_invalid'), ['Bearer x']],
        [refusal('token_invalid'), [`Bearer ${token.slice(0, -6)}AAAAAA`]],
      ]
      for (const [expected, headers] of rows) {
        assertRefused(t, await get(url, '/logout', headers, 'POST'), expected, expected.body.code)
      }
      t.equal((await getProtected(url, token)).status, 200)
    })

    t.test('HEAD is guarded as GET is', async (t) => {
      const { token } = await registerAndLogIn(url)
      for (const path of ['/protected', '/me']) {
        const head = (headers: Record<string, string>) => call(url, path, { method: 'HEAD', headers })
        const allowed = await head(bearer(token))
        t.strictSame([allowed.status, allowed.body], [200, ''], path)
        const refused = await fetch(url + path, { method: 'HEAD' })
        t.equal(refused.status, 401)
        t.equal(refused.headers.get('www-authenticate'), 'Bearer realm="latchkey"')
        t.equal(refused.headers.get('content-type'), 'application/problem+json; charset=utf-8')
        t.equal(await refused.text(), '')
      }
      await logOut(url, token)
      const refused = await fetch(`${url}/protected`, { method: 'HEAD', headers: bearer(token) })
      t.equal(refused.status, 401)
      t.equal(refused.headers.get('www-authenticate'), 'Bearer realm="latchkey", error="invalid_token"')
    })

    t.test('who asks to be remembered stays longer, with tokens that are as short', async (t) => {
      const user = randomUser()
      await registerAndLogIn(url, user)
      for (const [remember, lifetime] of [
        [true, 30 * day],
        [false, day / 2],
      ]) {
        const { status, body } = await post(url, '/login', { ...user, remember })
        t.strictSame([status, body.refresh_expires_in], [200, lifetime])
        assertLifetime(t, body.expires_in, 900)
      }
    })
  })
}

t.test('with short sessions and a short queue', async (t) => {
  const clock = createManualClock()
  const { url } = await startInstance(t, {
    stores: await postgresAndRedis(t),
    clock,
    env: {
      SESSION_TTL_SECONDS: '60',
      REMEMBER_TTL_SECONDS: '90',
      ARGON2_MEMORY_KIB: '16384',
      ARGON2_CONCURRENCY: '1',
      ARGON2_QUEUE_MAX: '1',
    },
  })
  const user = randomUser()
  const { token } = await registerAndLogIn(url, user)

  for (const [remember, seconds] of [
    [false, 60],
    [true, 90],
  ] as const) {
    const { body } = await post(url, '/login', { ...user, remember })
    t.strictSame(
      [body.expires_in, body.refresh_expires_in],
      [seconds, seconds],
      'no token outlives its session',
    )
    const { iat = 0, exp = 0 } = decodeJwt(body.access_token)
    t.equal(exp - iat, seconds)
  }

  const crowd = Array.from({ length: 20 }, () => post(url, '/login', randomUser()))
  const during = getProtected(url, token)
  const codes = new Set<string>()
  for (const reply of await Promise.all(crowd)) {
    codes.add(reply.body.code)
    const expected = refusal(reply.status === 503 ? 'overloaded' : 'invalid_credentials')
    assertRefused(t, reply, expected, 'refused or turned away')
  }
  t.strictSame([...codes].sort(), ['invalid_credentials', 'overloaded'])
  t.equal((await during).status, 200, 'who is logged in does not queue')
  t.equal((await post(url, '/login', user)).status, 200, 'and once the crowd is gone all is well')
  clock.advance(65)
  assertRefused(t, await getProtected(url, token), refusal('token_expired'), 'with its session')
})

t.test('a queue for nobody turns away who would have to wait, not who comes alone', async (t) => {
  const stores = await postgresAndRedis(t)
  const { url } = await startInstance(t, { stores, env: { ARGON2_QUEUE_MAX: '0' } })
  await registerAndLogIn(url)
})

t.test('with no store left it says that it cannot tell, and lets nobody in', async (t) => {
  const [postgres, redis] = await Promise.all([startPostgres(), startRedis()])
  t.teardown(() => Promise.all([postgres.stop(), redis.stop()]))
  const { env } = await postgresAndRedis(t)
  const stores = { env: { ...env, DATABASE_URL: postgres.url, REDIS_URL: redis.url } }
  const { url } = await startInstance(t, { stores })
  const user = randomUser()
  const { token } = await registerAndLogIn(url, user)
  await Promise.all([postgres.kill('SIGKILL'), redis.kill('SIGKILL')])

  await eventually(t, async () => (await call(url, '/health/ready')).status === 503)
  const ready = await call(url, '/health/ready')
  assertRefused(
    t,
    ready,
    refusal('unavailable', 'Missing: postgres, redis.'),
    'whoever balances the load is told, without a request of a user',
  )
  for (const path of ['/protected', '/me']) {
    const reply = await call(url, path, { headers: bearer(token) })
    assertRefused(t, reply, refusal('revocation_unknown'), path)
  }
  const { privateKey } = await generateKeyPair('ES256')
  const unknownKey = await new SignJWT(decodeJwt(token))
    .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: 'perhaps-new' })
    .sign(privateKey)
  // Keys that were read within the last second are not asked for again.
  await eventually(t, async () => (await getProtected(url, unknownKey)).status === 503)
  const reply = await getProtected(url, unknownKey)
  assertRefused(t, reply, refusal('revocation_unknown'), 'a key that may be new cannot be looked up')
  assertRefused(t, await getProtected(url, 'x'), refusal('token_invalid'), 'rubbish is rubbish')
  assertRefused(t, await post(url, '/login', user), refusal('unavailable'), 'login')
  assertRefused(t, await post(url, '/register', randomUser()), refusal('unavailable'), 'register')
  const notRecorded = refusal('unavailable', 'The revocation could not be recorded yet.')
  assertRefused(t, await logOut(url, token), notRecorded, 'logout')
  t.equal((await call(url, '/health/live')).status, 200)
  t.equal((await call(url, '/.well-known/jwks.json')).status, 200)
})

const fullWidth = (text: string) =>
  text.replace(/[!-~]/g, (character) => String.fromCharCode(character.charCodeAt(0) + 0xfee0))

/** The same 64 bytes of signature, in other characters: the last one carries two bits that mean nothing. */
function misspell(token: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  return token.slice(0, -1) + alphabet[alphabet.indexOf(token.slice(-1)) + 1]
}

/** With as many Authorization headers as there are values: fetch would make one of them. */
function get(url: string, path: string, authorization: string[], method = 'GET'): Promise<Reply> {
  const headers = authorization.map((value) => `authorization: ${value}\r\n`).join('')
  return exchange(url, `${method} ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${headers}\r\n`)
}
