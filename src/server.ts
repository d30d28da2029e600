/** The process: settings in, signals in, one exit out. */
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { buildApp } from './app.ts'
import { type Config, loadConfig } from './config.ts'

let app: FastifyInstance | undefined
let shutdownTimeoutSeconds = 0

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void stop(signal))

try {
  const config = loadConfig(process.env)
  shutdownTimeoutSeconds = config.shutdownTimeoutSeconds
  app = await buildApp(config)
  await app.listen({
    host: config.host,
    port: config.port,
    listenTextResolver: (address) => `listening on ${address}`,
  })
  if ('folder' in config.database) welcome(config, (app.server.address() as AddressInfo).port)
} catch (error) {
  process.stderr.write(`latchkey cannot start: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exit(1)
}

/** Finishes what is under way, for as long as it may take. */
async function stop(signal: NodeJS.Signals): Promise<void> {
  if (!app) process.exit(0)
  app.log.info({ signal }, 'stopping')
  const impatience = setTimeout(() => {
    app?.log.error('requests were still under way after SHUTDOWN_TIMEOUT_SECONDS')
    process.exit(1)
  }, shutdownTimeoutSeconds * 1000)
  await app.close()
  clearTimeout(impatience)
  process.exit(0)
}

/** For who just typed `npm start`. */
function welcome({ host }: Config, port: number): void {
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${port}`
  process.stdout.write(`
latchkey listens on ${url}, with everything it keeps in its data folder. Try:

  curl -s ${url}/register -H 'content-type: application/json' \\
    -d '{"username": "ada", "password": "correct horse battery"}'

`)
}
