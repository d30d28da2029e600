/** The process: settings in, signals in, one exit out. */
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { buildApp } from './app.ts'
import { type Config, loadConfig } from './config.ts'

let app: FastifyInstance | undefined
let shutdownTimeoutSeconds = 0
let stopping = false

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))

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

/** Finishes what is under way; what takes longer than it may is cut off, with a tenth of the time left to close the rest. */
async function stop(signal: NodeJS.Signals): Promise<void> {
  if (!app) process.exit(0)
  // Ctrl-C under npm arrives twice.
  if (stopping) return
  stopping = true
  const { server, log } = app
  log.info({ signal }, 'stopping')
  setTimeout(() => {
    log.warn('requests were still under way: they are cut off')
    server.closeAllConnections()
  }, shutdownTimeoutSeconds * 900).unref()
  setTimeout(() => process.exit(1), shutdownTimeoutSeconds * 1000).unref()
  await app.close()
  process.exit(0)
}

/** For anyone who has just typed `npm start`. */
function welcome({ host }: Config, port: number): void {
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${port}`
  process.stdout.write(`
latchkey listens on ${url}, with everything it keeps in its data folder. Try:

  curl -s ${url}/register -H 'content-type: application/json' \\
    -d '{"username": "ada", "password": "correct horse battery"}'

`)
}
