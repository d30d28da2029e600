import { type FastifyServerOptions, LogController } from 'fastify'
import { type Logger, pino } from 'pino'
import { driverError } from '../db/errors.ts'

export interface LogOptions {
  level: string
  /** In place of stdout, for tests. */
  logTo: { write(line: string): void } | undefined
}

export const createLog = ({ level, logTo }: LogOptions): Logger =>
  pino({ level, serializers: { err: describeError } }, logTo)

/**
 * What was refused or went wrong is logged by plugins/problems, what happened by the audit; a 200 says nothing. Fastify has no
 * logger of its own: with one, it would make another for each request, and listen to the end of each reply.
 */
export const logging = (log: Logger): Pick<FastifyServerOptions, 'logController' | 'childLoggerFactory'> => ({
  logController: new LogController({ disableRequestLogging: true }),
  // Whoever logs tells the request's id.
  childLoggerFactory: () => log,
})

/** What keeps the service from starting, in one line and without the statement of a query that failed. */
export function explainStart(error: unknown): string {
  return driverError(error).message ?? String(error)
}

/** Drivers hang much on their errors that must not be told: rows, commands with their arguments, whole clients. */
function describeError(error: Error) {
  const { name = 'Error', message = '', code, stack = '' } = driverError(error)
  return { type: name, message, code, stack }
}
