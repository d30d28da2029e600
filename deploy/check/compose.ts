/** Reads deploy/compose.yaml and proves what can be proved of it without an engine. What it does not know is an error. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { basename, join, relative } from 'node:path'
import { parse } from 'yaml'
import { type Config, loadConfig } from '../../src/config.ts'
import { type Image, machineEnvironment } from './image.ts'

export interface Compose {
  services: Record<string, Service>
  networks: Record<string, { internal?: boolean; ipam?: { config: { subnet: string }[] } } | null>
  volumes: Record<string, null>
  secrets: Record<string, { file: string }>
}

export interface Service {
  image: string
  build?: string
  environment?: Record<string, string>
  secrets?: string[]
  networks: string[]
  ports?: string[]
  volumes?: string[]
  depends_on?: Record<string, { condition: string }>
  healthcheck?: unknown
  stop_grace_period?: string
}

const understood = {
  file: ['name', 'services', 'networks', 'volumes', 'secrets'],
  service:
    `image build environment secrets networks ports volumes depends_on healthcheck stop_grace_period restart read_only
    security_opt cap_drop cap_add tmpfs user command`.split(/\s+/),
}

export interface ComposeCheck {
  /** The repository, which is what the image is built from. */
  root: string
  file: string
  image: Image
  /** A folder in which the secrets can be made. */
  scratch: string
  issuer: string
}

/** @throws Error with the first thing that is wrong */
export function checkCompose({ root, file, image, scratch, issuer }: ComposeCheck): Compose {
  const text = readFileSync(file, 'utf8')
  const compose = parse(interpolate(text, { ISSUER: issuer }), { merge: true }) as Compose
  const folder = join(file, '..')
  const services = Object.entries(compose.services)

  const keys = Object.keys(compose).filter((key) => !key.startsWith('x-'))
  assert.deepEqual(surplus(keys, understood.file), [], 'compose: not understood')
  for (const [name, service] of services)
    assert.deepEqual(
      surplus(Object.keys(service), understood.service),
      [],
      `compose: ${name}: not understood`,
    )

  checkNames(compose)
  assert.deepEqual(
    services.filter(([, { ports }]) => ports).map(([name]) => name),
    ['proxy'],
    'compose: who publishes ports',
  )

  for (const [name, { volumes = [], build, depends_on = {} }] of services) {
    for (const [source = ''] of volumes.map((volume) => volume.split(':')))
      if (source.startsWith('.'))
        assert.ok(
          isTracked(join(folder, source), root),
          `compose: ${name} mounts ${source}, which git does not track`,
        )
    if (build !== undefined)
      assert.equal(join(folder, build, '.'), join(root, '.'), `compose: what ${name} is built from`)
    for (const [other, { condition }] of Object.entries(depends_on)) {
      const dependency = compose.services[other]
      const checked = dependency?.healthcheck ?? (dependency?.build !== undefined && image.healthCheck)
      assert.ok(
        checked && condition === 'service_healthy',
        `compose: ${name} waits for ${other}: ${condition}`,
      )
    }
  }

  const secrets = makeSecrets(text, folder, scratch)
  for (const [name, { file: path }] of Object.entries(compose.secrets)) {
    assert.ok(isIgnored(join(folder, path), root), `compose: the secret ${name} could be committed: ${path}`)
    assert.ok(existsSync(join(secrets, path)), `compose: the commands at its top do not make ${path}`)
  }

  const ours = services.filter(([, { build }]) => build !== undefined)
  assert.ok(ours.length > 1, 'compose: two instances')
  for (const [name, service] of ours) checkInstance(name, service, compose, image, secrets)
  return compose
}

/** Everything that is declared is used, and the other way round. */
function checkNames(compose: Compose): void {
  const services = Object.values(compose.services)
  const sorted = (names: Iterable<string>) => [...new Set(names)].sort()
  const mounted = services.flatMap(({ volumes = [] }) =>
    volumes.map((volume) => volume.split(':')[0] as string),
  )
  const used = {
    networks: services.flatMap(({ networks }) => networks),
    volumes: mounted.filter((source) => !source.startsWith('.')),
    secrets: services.flatMap(({ secrets = [] }) => secrets),
  }
  for (const kind of ['networks', 'volumes', 'secrets'] as const)
    assert.deepEqual(
      sorted(used[kind]),
      sorted(Object.keys(compose[kind])),
      `compose: ${kind} used and declared`,
    )
}

/** Its settings are ones that the service reads, and it would start with them. */
function checkInstance(
  name: string,
  service: Service,
  compose: Compose,
  image: Image,
  secrets: string,
): void {
  const settings = namesOfSettings()
  const env = { ...image.env, ...service.environment }
  assert.deepEqual(surplus(Object.keys(env), settings), [], `compose: ${name}: no such setting`)

  const mounts = Object.entries(env).map(([setting, value]): [string, string] => {
    if (!setting.endsWith('_FILE')) return [setting, value]
    const secret = basename(value)
    assert.equal(value, `/run/secrets/${secret}`)
    assert.ok(
      service.secrets?.includes(secret),
      `compose: ${name}: ${setting} names a secret that it is not given`,
    )
    return [setting, join(secrets, compose.secrets[secret]?.file ?? '')]
  })
  const config: Config = loadConfig(Object.fromEntries(mounts))
  const stores = [config.database, config.redis].map(
    (store) => new URL((store as { url: string }).url).hostname,
  )
  for (const host of stores) {
    const reachable = compose.services[host]?.networks.some((network) => service.networks.includes(network))
    assert.ok(reachable, `compose: ${name} cannot reach ${host}`)
  }

  const grace = Number(/^(\d+)s$/.exec(service.stop_grace_period ?? '10s')?.[1])
  assert.ok(
    grace > config.shutdownTimeoutSeconds,
    `compose: ${name} is killed while it shuts down: ${grace} s`,
  )
  assert.deepEqual(image.ports, [config.port], 'the port that the image exposes')

  const shared = (compose.services.proxy as Service).networks.filter((network) =>
    service.networks.includes(network),
  )
  const subnets = shared.flatMap((network) =>
    compose.networks[network]?.ipam?.config.map(({ subnet }) => subnet),
  )
  assert.equal(env.TRUST_PROXY, subnets.join(','), `compose: ${name}: TRUST_PROXY and the proxy's subnet`)
}

/** Whatever the configuration looks at. */
export function namesOfSettings(): string[] {
  const names = new Set<string>()
  const env = new Proxy<Record<string, undefined>>({}, { get: (_, name) => void names.add(String(name)) })
  loadConfig(env)
  return [...names]
}

/** Runs the indented commands of the comment at the top, as anyone would, but for those that need Docker. */
function makeSecrets(text: string, folder: string, scratch: string): string {
  const commands = [...text.matchAll(/^# {3}(.+)$/gm)].map(([, command]) => command as string)
  const script = commands.filter((command) => !command.includes('docker compose')).join('\n')
  const place = join(scratch, basename(folder))
  mkdirSync(place)
  execFileSync('sh', ['-e', '-c', script], { cwd: place, env: machineEnvironment() })
  return place
}

/** `${NAME:?why}`, which must be given, and `${NAME:-}`, which is not: of what can stand there all that does. */
function interpolate(text: string, values: Record<string, string>): string {
  const body = text.replace(/^#.*$/gm, '')
  return body.replace(/\$(?:\{(\w+):(\?[^}]+|-)\})?/g, (all, name: string | undefined, rest?: string) => {
    const value = name === undefined ? undefined : (values[name] ?? (rest === '-' ? '' : undefined))
    if (value === undefined) throw new Error(`compose: not understood: ${all}`)
    return value
  })
}

const surplus = (names: string[], known: string[]) => names.filter((name) => !known.includes(name))

const isTracked = (path: string, root: string) =>
  execFileSync('git', ['ls-files', relative(root, path)], { cwd: root, encoding: 'utf8' }) !== '' &&
  existsSync(path)

function isIgnored(path: string, root: string): boolean {
  try {
    execFileSync('git', ['check-ignore', '-q', relative(root, path)], { cwd: root })
    return true
  } catch {
    return false
  }
}
