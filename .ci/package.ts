/** Packs the package, installs it from the file into an empty folder, and starts it there as its users would: `npx latchkey`. */
import assert from 'node:assert/strict'
import { execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { getProtected, logOut, registerAndLogIn } from '../test/fixtures/client.ts'

/** A verifier that may not follow, as whoever has only installed the package. */
const followed = `
import { createVerifier } from 'latchkey/verifier'
const { URL, TOKEN } = process.env
const its = { issuer: 'http://localhost:0', audience: 'http://localhost:0' }
const verifier = createVerifier({ ...its, url: URL, clientId: 'nobody', clientSecret: 'none' })
const refused = await verifier.verify(['authorization', 'Bearer ' + TOKEN]).catch((error) => error)
process.stdout.write(refused.code)
verifier.close()`

/** The same in TypeScript, by the declarations that are in the package. */
const typed = `
import Fastify from 'fastify'
import type { IncomingMessage } from 'node:http'
import { createVerifier, Refused, type AccessTokenClaims, type GuardedRequest } from 'latchkey/verifier'
const verifier = createVerifier({ issuer: 'a', audience: 'b', clientId: 'c', clientSecret: 'd', whenStale: 'introspect' })
const app = Fastify()
await app.register(verifier.fastify, { role: 'editor' })
app.get('/', async ({ tokenClaims }) => tokenClaims.sub)
const claims: AccessTokenClaims = await verifier.verify([], { scope: 'x' })
export const subjectOf = (request: IncomingMessage & { params: object }) =>
  (request as GuardedRequest<typeof request>).tokenClaims.sub
if (new Error() instanceof Refused) verifier.express({ scope: claims.jti })
// @ts-expect-error nothing can be demanded by this name
verifier.express({ roles: 'editor' })`

const folder = mkdtempSync(join(tmpdir(), 'latchkey-package-'))
const npm = (args: string[], cwd: string) => execFileSync('npm', args, { cwd, encoding: 'utf8' })
let service: ReturnType<typeof spawn> | undefined

try {
  const [packed] = JSON.parse(npm(['pack', '--json', '--pack-destination', folder], '.')) as [
    { filename: string; files: { path: string }[] },
  ]
  const paths = packed.files.map(({ path }) => path)
  const needed = ['LICENSE', 'README.md', 'dist/cli.js', 'dist/server.js', 'openapi.yaml', 'package.json']
  assert.deepEqual(
    needed.filter((path) => !paths.includes(path)),
    [],
  )
  const known = /^(dist\/[\w/-]+\.(js|d\.ts)|migrations\/(\d{4}_\w+\.sql|meta\/_journal\.json))$/
  assert.deepEqual(
    paths.filter((path) => !needed.includes(path) && !known.test(path)),
    [],
  )

  const empty = mkdtempSync(join(folder, 'empty-'))
  npm(['init', '--yes'], empty)
  npm(
    ['install', '--prefer-offline', '--no-audit', '--no-fund', '--omit=dev', join(folder, packed.filename)],
    empty,
  )
  // A group of its own: npx does not pass signals on.
  service = spawn('npx', ['latchkey'], {
    cwd: empty,
    env: { PATH: process.env.PATH, HOME: process.env.HOME, PORT: '0' },
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const url = await listening(service.stdout as NodeJS.ReadableStream)
  const { token } = await registerAndLogIn(url)
  assert.equal((await getProtected(url, token)).status, 200)
  assert.equal((await logOut(url, token)).status, 204)
  assert.equal((await getProtected(url, token)).body.code, 'token_revoked')
  assert.equal((await fetch(`${url}/docs/`)).status, 200)
  const verifier = await promisify(execFile)('node', ['--input-type=module', '-e', followed], {
    cwd: empty,
    env: { PATH: process.env.PATH, URL: url, TOKEN: token },
  })
  assert.equal(verifier.stdout, 'revocation_unknown')
  writeFileSync(join(empty, 'backend.mts'), typed)
  const [, page = ''] = /```ts\n([\s\S]*?)```/.exec(readFileSync('README.md', 'utf8')) ?? []
  writeFileSync(join(empty, 'page.mts'), page)
  const types = [
    '--noEmit',
    '--strict',
    '--target',
    'es2022',
    '--types',
    'node',
    '--typeRoots',
    resolve('node_modules/@types'),
  ]
  for (const how of [
    ['--module', 'nodenext'],
    ['--module', 'esnext', '--moduleResolution', 'bundler'],
  ])
    execFileSync(resolve('node_modules/.bin/tsc'), [...types, ...how, 'backend.mts', 'page.mts'], {
      cwd: empty,
      stdio: 'inherit',
    })
  process.stdout.write(`the package starts from its file, with ${paths.length} files in it\n`)
} finally {
  if (service?.pid) {
    const ended = once(service, 'close')
    process.kill(-service.pid, 'SIGTERM')
    await ended
  }
  rmSync(folder, { recursive: true, force: true })
}

async function listening(output: NodeJS.ReadableStream): Promise<string> {
  for await (const line of createInterface({ input: output })) {
    const url = /listening on (http:[^"]+)/.exec(line)?.[1]
    if (url) {
      output.resume()
      return url
    }
  }
  throw new Error('the packed service did not start')
}
