/**
 * Several processes on one machine. The one that was started serves no request itself: it starts the others, hands them
 * the connections, and replaces those that die. Each is an instance like any other and shares nothing with the rest but the
 * stores, so what is promised of instances holds between them.
 */
import cluster, { type Worker } from 'node:cluster'
import { once } from 'node:events'
import Fastify from 'fastify'
import { AggregatorRegistry } from 'prom-client'
import type { Config } from './config.ts'
import { createLog } from './plugins/log.ts'
import { metricsRequest, serveMetrics } from './plugins/metrics.ts'

export interface Workers {
  /** Resolves when all of them listen; to false if one of them ended instead, which has said why: then none is left. */
  start(): Promise<boolean>
  /** Lets each finish what is under way. Resolves when none is left, to an exit code: 0 if all ended well. */
  stop(signal: NodeJS.Signals): Promise<number>
}

const replaceEveryMs = 1_000
const answerWithinMs = 1_000

export type WorkersOptions = Pick<
  Config,
  'workers' | 'host' | 'metricsPort' | 'logLevel' | 'shutdownTimeoutSeconds'
>

export function createWorkers(config: WorkersOptions): Workers {
  const { workers: count, host, metricsPort, shutdownTimeoutSeconds } = config
  const log = createLog({ level: config.logLevel, logTo: undefined })
  const monitor = Fastify()
  let ending = false
  let replacing: NodeJS.Timeout | undefined

  const living = () =>
    Object.values(cluster.workers ?? {}).filter((worker): worker is Worker => worker?.isDead() === false)

  function launch(): Worker {
    const worker = cluster.fork()
    // One that dies while it is written to; unheard, the event would end this process.
    worker.on('error', (err) => log.error({ err }, 'a worker cannot be reached'))
    return worker
  }

  /** The first one alone, so that what is wrong with all of them is said once. */
  async function launchAll(): Promise<boolean> {
    await once(launch(), 'listening')
    if (!ending) await Promise.all(Array.from({ length: count - 1 }, () => once(launch(), 'listening')))
    return true
  }

  /** Of those that answer: the library would wait longer for one that starts, is frozen or dies, and then tell nothing. */
  async function readMetrics(): Promise<string> {
    const answers = living().map(async (worker) => {
      const answer = once(worker, 'message', { signal: AbortSignal.timeout(answerWithinMs) })
      worker.send(metricsRequest)
      return await answer.then(
        ([metrics]) => [metrics],
        () => [],
      )
    })
    return await AggregatorRegistry.aggregate((await Promise.all(answers)).flat()).metrics()
  }

  async function end(): Promise<number> {
    ending = true
    clearInterval(replacing)
    const workers = living()
    const endings = workers.map(
      (worker) =>
        new Promise<boolean>((resolve) => {
          // One that cannot take the signal yet has nothing under way.
          worker.once('exit', (code, signal) => resolve(code === 0 || signal === 'SIGTERM'))
        }),
    )
    for (const worker of workers) worker.process.kill('SIGTERM')
    // They end themselves by then; one that is frozen does not.
    setTimeout(() => {
      for (const worker of living()) worker.process.kill('SIGKILL')
    }, shutdownTimeoutSeconds * 1000)
    return (await Promise.all(endings)).every(Boolean) ? 0 : 1
  }

  return {
    async start() {
      if (metricsPort > 0) {
        serveMetrics(monitor, readMetrics)
        await monitor.listen({
          host,
          port: metricsPort,
          listenTextResolver: (address) => `metrics are on ${address}`,
        })
      }
      const failure = new Promise<false>((resolve) => {
        cluster.on('exit', ({ process: { pid } }, code, signal) => {
          if (ending) return
          log.error({ worker: pid, code, signal }, 'a worker ended')
          resolve(false)
        })
      })
      if (!(await Promise.race([launchAll(), failure]))) {
        await end()
        return false
      }
      replacing = setInterval(() => {
        if (living().length === count) return
        log.info({ worker: launch().process.pid }, 'a worker takes the place of one that ended')
      }, replaceEveryMs)
      return true
    },

    stop(signal) {
      log.info({ signal }, 'stopping')
      return end()
    },
  }
}
