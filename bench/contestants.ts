/** The servers that are measured beside each other, all on one core. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { freePort } from '../test/fixtures/servers.ts'
import { type PinnedProcess, serverCore, startPinned, startPinnedGroup, waitFor } from './machine.ts'

export interface Contestant extends PinnedProcess {
  url: string
  /** Milliseconds from its start to its first answer. */
  readyMs: number
}

export interface Stores {
  databaseUrl: string
  redisUrl: string
}

export const issuer = 'https://auth.example'
export const keyEncryptionSecret = 'k7Vq2mZ9xT4bN8wLrY3hJ6sD1fG5pC0aEuQiOoX+B/w='

/** Everybody runs on the same: what `npm start` gives to Node. */
const [, ...nodeFlags] = (
  JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    scripts: { start: string }
  }
).scripts.start
  .split(' ')
  .slice(0, -1)

const pathTo = (file: string) => fileURLToPath(new URL(file, import.meta.url))

/** All of the environment of one that is as it is shipped, in production mode. */
const environmentOf = ({ databaseUrl, redisUrl }: Stores) => ({
  NODE_ENV: 'production',
  ISSUER: issuer,
  KEY_ENCRYPTION_SECRET: keyEncryptionSecret,
  DATABASE_URL: databaseUrl,
  REDIS_URL: redisUrl,
})

export const startLatchkey = (
  stores: Stores,
  env: Readonly<Record<string, string>> = {},
  cores = serverCore,
): Promise<Contestant> =>
  start('/health/ready', [pathTo('../dist/server.js')], { ...environmentOf(stores), ...env }, cores)

/** A service, with these scopes. @param stores of an instance that has started, for it makes the tables */
export async function createClient(
  stores: Stores,
  scopes: readonly string[],
): Promise<{ client_id: string; client_secret: string }> {
  const asked = ['clients', 'create', 'bench', ...scopes.flatMap((scope) => ['--scope', scope])]
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [pathTo('../dist/cli.js'), '--json', ...asked],
    { env: { PATH: process.env.PATH, ...environmentOf(stores) } },
  )
  return JSON.parse(stdout)[0]
}

export const startBare = (): Promise<Contestant> => start('/protected', [pathTo('servers/bare.js')], {})

/** As somebody has it who has just cloned it, on its embedded store, but built before. @param home where all of it is kept */
export async function startThroughNpm(
  home: string,
): Promise<Pick<Contestant, 'readyMs' | 'residentBytes' | 'end'>> {
  const port = await freePort()
  const process_ = startPinnedGroup(serverCore, 'npm start --ignore-scripts', {
    cwd: pathTo('..'),
    // npm has its logs there too, and would ask for a newer npm.
    env: { HOME: home, DATA_DIR: join(home, 'data'), PORT: `${port}`, npm_config_update_notifier: 'false' },
  })
  return { ...process_, readyMs: await waitFor(`http://127.0.0.1:${port}/health/ready`) }
}

/** @param publicKey in PEM. @param redisUrl where it asks for each token */
export const startRecipe = (publicKey: string, redisUrl?: string): Promise<Contestant> =>
  start('/', ['--import=tsx', pathTo('servers/recipe.ts')], {
    PUBLIC_KEY: publicKey,
    ...(redisUrl !== undefined && { REDIS_URL: redisUrl }),
  })

/** @param env which binary it loads */
export const startArgon2 = (env: Readonly<Record<string, string>>): Promise<Contestant> =>
  start('/', ['--import=tsx', pathTo('servers/argon2.ts')], env)

async function start(
  path: string,
  program: readonly string[],
  env: Readonly<Record<string, string>>,
  cores = serverCore,
): Promise<Contestant> {
  const port = await freePort()
  const process_ = startPinned(cores, [process.execPath, ...nodeFlags, ...program], {
    ...env,
    PORT: `${port}`,
  })
  const url = `http://127.0.0.1:${port}`
  return { ...process_, url, readyMs: await waitFor(`${url}${path}`) }
}
