/** Runs the proxy's own configuration, with addresses of this machine in it, and looks at what arrives behind it. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { installMissing, isOnPath } from '../../test/fixtures/install.ts'
import { freePort } from '../../test/fixtures/servers.ts'
import type { Compose } from './compose.ts'
import { type Image, machinePath } from './image.ts'
import type { Workshop } from './workshop.ts'

export interface ProxyCheck {
  caddyfile: string
  compose: Compose
  image: Image
  workshop: Workshop
  say: (line: string) => void
}

/** @throws Error with the first thing that is wrong */
export async function checkProxy({ caddyfile, compose, image, workshop, say }: ProxyCheck): Promise<void> {
  const named = [...readFileSync(caddyfile, 'utf8').matchAll(/\{\$(\w+)/g)].map(([, name]) => name)
  assert.deepEqual(
    Object.keys(compose.services.proxy?.environment ?? {}),
    [...new Set(named)],
    'what the Caddyfile takes from the environment',
  )

  const missing = installMissing('Caddy', ['caddy'], () => isOnPath('caddy'))
  if (missing) return say(`NOT CHECKED: the Caddyfile, as ${missing}`)
  const cwd = join(workshop.folder, 'caddy')
  mkdirSync(cwd)
  const env = { PATH: machinePath(), HOME: cwd }
  const caddy = (verb: string, ISSUER: string) =>
    execFileSync('caddy', [verb, '--adapter', 'caddyfile', '--config', caddyfile], {
      cwd,
      env: { ...env, ISSUER },
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 20_000,
    })

  caddy('validate', 'https://auth.example.org')
  const adapted = JSON.parse(caddy('adapt', 'http://localhost')) as Adapted
  assert.equal(adapted.admin?.disabled, true, 'Caddyfile: nobody administers it')
  const instances = Object.entries(compose.services).filter(([, { build }]) => build !== undefined)
  const names = instances.map(([name]) => `${name}:${image.ports[0]}`)
  const servers = await Promise.all(names.map(() => startEcho()))
  const ports = servers.map((server) => (server.address() as AddressInfo).port)
  const port = await freePort()
  writeFileSync(
    join(cwd, 'here.json'),
    placeHere(adapted, port, new Map(names.map((name, i) => [name, ports[i]]))),
  )
  const proxy = workshop.start(['caddy', 'run', '--config', 'here.json'], { cwd, env })

  try {
    // A name, as Caddy serves no other; fetch finds its address.
    const url = `http://localhost:${port}/`
    const headers = { authorization: 'Bearer a.b.c', 'x-forwarded-for': '203.0.113.7, 10.213.77.9' }
    for (const deadline = Date.now() + 10_000; ; await sleep(100)) {
      const answer = await fetch(url).catch(() => undefined)
      if (answer?.ok) break
      if (Date.now() > deadline) throw new Error(`Caddy does not proxy: ${answer?.status}\n${proxy.said()}`)
    }
    const ask = async () => (await (await fetch(url, { headers })).json()) as Echo
    const answers = await Promise.all(Array.from({ length: 6 }, ask))
    for (const { received } of answers) {
      assert.equal(received.authorization, headers.authorization, 'Caddyfile: Authorization gets through')
      assert.match(
        String(received['x-forwarded-for']),
        /^127\.0\.0\.1$/,
        'Caddyfile: X-Forwarded-For is what Caddy saw, and nothing of what the client said',
      )
    }
    assert.equal(new Set(answers.map(({ by }) => by)).size, names.length, 'Caddyfile: every instance is used')
    say('Caddy passes Authorization on, believes no X-Forwarded-For, and uses every instance')

    const [first] = servers as [Server]
    first.closeAllConnections()
    await new Promise((resolve) => first.close(resolve))
    const afterwards = await Promise.all(Array.from({ length: 6 }, ask))
    assert.ok(afterwards.every(({ by }) => by !== ports[0]))
    say('with one instance gone, Caddy asks the other')
  } finally {
    await proxy.endsWithin(0)
    for (const server of servers) {
      server.closeAllConnections()
      server.close()
    }
  }
}

interface Adapted {
  admin?: { disabled?: boolean }
  apps: { http: { servers: Record<string, { listen: string[]; automatic_https?: { disable: boolean } }> } }
}

interface Echo {
  by: number
  received: IncomingHttpHeaders
}

/** The same configuration, but for where it listens and where the instances are. */
function placeHere(adapted: Adapted, port: number, instances: Map<string, number | undefined>): string {
  const [server, ...more] = Object.values(adapted.apps.http.servers)
  if (!server || more.length > 0) throw new Error('Caddyfile: one site')
  server.listen = [`127.0.0.1:${port}`]
  server.automatic_https = { disable: true }
  const dialled = new Set<unknown>()
  const text = JSON.stringify(adapted, (key, value: unknown) => {
    if (key !== 'dial') return value
    dialled.add(value)
    return `127.0.0.1:${instances.get(String(value))}`
  })
  assert.deepEqual(dialled, new Set(instances.keys()), 'Caddyfile: the instances of compose.yaml')
  return text
}

/** Answers with what it received. */
async function startEcho(): Promise<Server> {
  const server = createServer(({ headers }, response) => {
    const echo: Echo = { by: (server.address() as AddressInfo).port, received: headers }
    response.setHeader('content-type', 'application/json').end(JSON.stringify(echo))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return server
}
