/** The process: settings in, signals in, one exit out. */
import './kept-tick.ts'
import cluster from 'node:cluster'
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { buildApp } from './app.ts'
import { type Config, loadConfig } from './config.ts'
import { createWorkers } from './workers.ts'

/** Ends what was started, and tells the exit code. */
let end: ((signal: NodeJS.Signals) => Promise<number>) | undefined
let stopping = false

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))

try {
  const config = loadConfig(process.env)
  if (config.workers > 1 && cluster.isPrimary) {
    const workers = createWorkers(config)
    end = workers.stop
    if (!(await workers.start())) process.exit(1)
  } else {
    const app = await buildApp(config)
    end = (signal) => close(app, config, signal)
    await app.listen({
      host: config.host,
      port: config.port,
      listenTextResolver: (address) => `listening on ${address}`,
    })
    if ('folder' in config.database) welcome(config, (app.server.address() as AddressInfo).port)
  }
} catch (error) {
  process.stderr.write(`latchkey cannot start: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exit(1)
}

async function stop(signal: NodeJS.Signals): Promise<void> {
  if (!end) process.exit(0)
  // Ctrl-C under npm arrives twice.
  if (stopping) return
  stopping = true
  process.exit(await end(signal))
}

/** Finishes what is under way; what takes longer than it may is cut off, with a tenth of the time left to close the rest. */
async function close(app: FastifyInstance, config: Config, signal: NodeJS.Signals): Promise<number> {
  const { server, log } = app
  const { shutdownTimeoutSeconds } = config
  log.info({ signal }, 'stopping')
  setTimeout(() => {
    log.warn('requests were still under way: they are cut off')
    server.closeAllConnections()
  }, shutdownTimeoutSeconds * 900).unref()
  setTimeout(() => process.exit(1), shutdownTimeoutSeconds * 1000).unref()
  await app.close()
  return 0
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
