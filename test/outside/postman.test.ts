/** The Postman collection is run as a person would: imported as it is, from top to bottom, and once more. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { HTTPMethods } from 'fastify'
import { type NewmanRunExecutionItem, type NewmanRunSummary, run } from 'newman'
import t, { type Test } from 'tap'
import { embedded, postgresAndRedis, startInstance } from '../fixtures/app.ts'

/** Of Postman's formats, what is looked at here: a folder has items, and what has none is a request. */
interface Item {
  name: string
  item?: Item[]
  request?: { method: string; url: string | { raw: string }; description: string }
}

interface Environment {
  values: { key: string; value: string; type: string }[]
}

const file = (name: string) =>
  readFileSync(fileURLToPath(new URL(`../../postman/latchkey.postman_${name}.json`, import.meta.url)), 'utf8')

const collection = JSON.parse(file('collection')) as { item: Item[] }
const environment = JSON.parse(file('environment')) as Environment
const variables = environment.values.map(({ key }) => key)

const requests = collection.item.flatMap((item) => requestsOf(item, ''))
const names = requests.map(({ name }) => name)

/** With the folders in the name, and without what Postman puts around a path. */
function requestsOf({ name, item, request }: Item, folder: string): RequestInCollection[] {
  const fullName = folder + name
  if (!request) return item?.flatMap((item) => requestsOf(item, `${fullName} / `)) ?? []
  const { method, url, description } = request
  const path = (typeof url === 'string' ? url : url.raw).replace(/^\{\{base_url\}\}|\?.*/g, '')
  return [{ name: fullName, method, path, description }]
}

interface RequestInCollection {
  name: string
  method: string
  path: string
  description: string
}

interface RunOptions {
  graceSeconds?: number
  folders?: Item[]
  /** What an earlier run left in the environment, as Postman keeps it. */
  after?: NewmanRunSummary | undefined
}

function runCollection(url: string, { graceSeconds = 0, folders = collection.item, after }: RunOptions = {}) {
  const options = {
    collection: { ...collection, item: folders },
    environment: after?.environment.toJSON() ?? environment,
    envVar: [
      { key: 'base_url', value: url },
      { key: 'refresh_grace_seconds', value: String(graceSeconds) },
    ],
    timeoutRequest: 20_000,
    reporters: [],
  }
  return new Promise<NewmanRunSummary>((resolve, reject) => {
    run(options, (error, summary) => (error ? reject(error) : resolve(summary)))
  })
}

function nameOf(item: NewmanRunExecutionItem | undefined): string {
  let name = item?.name ?? ''
  item?.forEachParent((folder: Item) => {
    name = `${folder.name} / ${name}`
  })
  return name
}

/** A line for whatever did not hold. */
const failuresOf = ({ run }: NewmanRunSummary) =>
  run.failures.map(({ source, error }) => `${nameOf(source)}: ${error.test ?? error.name}: ${error.message}`)

/** The requests with an assertion of such a name that did not hold. */
const failedRequests = ({ run }: NewmanRunSummary, assertion = /^/) => [
  ...new Set(
    run.failures.filter(({ error }) => assertion.test(error.test)).map(({ source }) => nameOf(source)),
  ),
]

for (const [storesOf, turns] of [
  [postgresAndRedis, ['first', 'second']],
  [embedded, ['only']],
] as const) {
  t.test(`it runs as often as one likes on ${storesOf.name}`, async (t) => {
    const env = { REFRESH_GRACE_SECONDS: '1' }
    const { app, url } = await startInstance(t, { stores: await storesOf(t), env })
    for (const { name, method, path } of requests) {
      t.ok(
        app.hasRoute({ method: method as HTTPMethods, url: path }),
        `${name}: ${method} ${path} is a route`,
      )
    }
    let after: NewmanRunSummary | undefined
    for (const turn of turns) {
      after = await runCollection(url, { graceSeconds: 1, after })
      const { executions } = after.run
      const asserting = executions.filter(({ assertions }) => assertions?.length > 0)
      const kept = (after.environment.toJSON() as Environment).values
      t.same(failuresOf(after), [], `nothing fails the ${turn} time`)
      t.same(
        executions.map(({ item }) => nameOf(item)),
        names,
        'every request is sent, in order',
      )
      t.same(
        asserting.map(({ item }) => nameOf(item)),
        names,
        'and something is asserted of it',
      )
      t.same(kept.map(({ key }) => key).sort(), variables.toSorted(), 'nothing is kept under another name')
      t.same(
        kept.filter(({ value }) => value === ''),
        [],
        'every variable is filled',
      )
    }
  })
}

t.test('any folder runs by itself, once there is an account with a session', async (t) => {
  const { url } = await startInstance(t, {
    stores: await postgresAndRedis(t),
    env: { REFRESH_GRACE_SECONDS: '0' },
  })
  // Registering forgets whatever the folder before has kept.
  const [register, logIn, ...rest] = collection.item as [Item, Item, ...Item[]]
  const item = rest.toReversed().flatMap((folder) => [register, logIn, folder])
  t.same(failuresOf(await runCollection(url, { folders: item })), [])
})

t.test('the files explain themselves, need nothing but each other, and give no secret away', async (t) => {
  t.match(file('collection'), 'https://schema.getpostman.com/json/collection/v2.1.0/collection.json')
  const used = [...file('collection').matchAll(/\{\{(\w+)\}\}/g)].map(([, name]) => name as string)
  t.same(
    used.filter((name) => !variables.includes(name)),
    [],
  )
  for (const { key, value, type } of environment.values) {
    const isSecret = /token|password|secret|code/.test(key)
    t.equal(type, isSecret ? 'secret' : 'default', key)
    if (isSecret) t.equal(value, '', `${key} is empty`)
  }
  for (const { name, description } of requests) t.ok(description, `${name}: it is said what that is`)
  for (const name of ['collection', 'environment']) {
    t.notMatch(file(name), /eyJ|[\w-]{43}/, `${name}: nothing that looks like a token`)
  }
})

async function startServer(t: Test, answer: RequestListener): Promise<string> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Stands before the service and spoils its replies. */
const startRelay = (t: Test, url: string, spoil: (headers: Headers, body: string) => string) =>
  startServer(t, async (request, response) => {
    const headers = new Headers()
    for (const name of ['authorization', 'content-type'] as const) {
      const value = request.headers[name]
      if (value) headers.set(name, value)
    }
    const { method = 'GET' } = request
    const body = await text(request)
    const reply = await fetch(url + request.url, { method, headers, ...(body && { body }) })
    const spoilt = new Headers(reply.headers)
    const spoiltBody = spoil(spoilt, await reply.text())
    spoilt.delete('content-length')
    response.writeHead(reply.status, [...spoilt].flat()).end(spoiltBody)
  })

t.test('it sees what is wrong', async (t) => {
  const friendly = await startServer(t, (_request, response) => {
    response.setHeader('content-type', 'application/json').end('{}')
  })
  t.same(failedRequests(await runCollection(friendly)), names, 'a server that says 200 to everything')

  const { url } = await startInstance(t, { stores: await embedded(t), env: { REFRESH_GRACE_SECONDS: '0' } })
  const relay = await startRelay(t, url, (headers, body) => {
    headers.delete('cache-control')
    headers.delete('www-authenticate')
    return body.replace(/"code":"\w+"/, '"code":"another"')
  })
  const spoilt = await runCollection(relay)
  const namesOf = (requests: RequestInCollection[]) => requests.map(({ name }) => name)
  const refused = requests.filter(({ name }) => / → 4/.test(name))
  t.same(failedRequests(spoilt, /^answers/), namesOf(refused), 'refusals with another code')
  const unauthorized = refused.filter(({ name }) => / → 401/.test(name))
  t.same(failedRequests(spoilt, /challenge/), namesOf(unauthorized), 'refusals without their challenge')
  const cautious = requests.filter(
    (request) =>
      refused.includes(request) ||
      /(login|refresh|me|sessions|password|reauthenticate|jwks\.json)$/.test(request.path) ||
      (request.path.includes('/mfa') && / → 20[01]$/.test(request.name)),
  )
  t.same(failedRequests(spoilt, /cache/), namesOf(cautious), 'replies whose caching is not said')
})

t.test('it sees that theft goes unpunished', async (t) => {
  const { url } = await startInstance(t, {
    stores: await postgresAndRedis(t),
    env: { REFRESH_GRACE_SECONDS: '3600' },
  })
  const folders = collection.item.filter(({ name }) => /^(Register|Log in|Reuse detected)$/.test(name))
  t.same(failedRequests(await runCollection(url, { folders })), [
    'Reuse detected / The first refresh token comes back → 401 refresh_token_reused',
    'Reuse detected / The access token is refused → 401 token_revoked',
    'Reuse detected / The newest refresh token is refused → 401 refresh_token_invalid',
  ])
})
