/** The servers that are measured beside each other, all on one core. */
import { fileURLToPath } from 'node:url'
import { freePort } from '../test/fixtures/servers.ts'
import { type PinnedProcess, serverCore, startPinned, waitFor } from './machine.ts'

export interface Contestant extends PinnedProcess {
  url: string
}

export interface Stores {
  databaseUrl: string
  redisUrl: string
}

export const issuer = 'https://auth.example'
export const keyEncryptionSecret = 'k7Vq2mZ9xT4bN8wLrY3hJ6sD1fG5pC0aEuQiOoX+B/w='

const pathTo = (file: string) => fileURLToPath(new URL(file, import.meta.url))

/** As it is shipped: what is built, in production mode. */
export const startLatchkey = (
  stores: Stores,
  env: Readonly<Record<string, string>> = {},
): Promise<Contestant> =>
  start('/health/ready', [pathTo('../dist/server.js')], {
    NODE_ENV: 'production',
    ISSUER: issuer,
    KEY_ENCRYPTION_SECRET: keyEncryptionSecret,
    DATABASE_URL: stores.databaseUrl,
    REDIS_URL: stores.redisUrl,
    ...env,
  })

export const startBare = (): Promise<Contestant> =>
  start('/protected', ['--import=tsx', pathTo('servers/bare.ts')], {})

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
): Promise<Contestant> {
  const port = await freePort()
  const process_ = startPinned(serverCore, [process.execPath, ...program], { ...env, PORT: `${port}` })
  const url = `http://127.0.0.1:${port}`
  await waitFor(`${url}${path}`)
  return { ...process_, url }
}
