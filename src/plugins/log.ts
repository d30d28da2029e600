import { type Logger, pino } from 'pino'
import { driverError } from '../db/errors.ts'

export interface LogOptions {
  level: string
  /** In place of stdout, for tests. */
  logTo: { write(line: string): void } | undefined
}

/**
 * The service's log, which is app.log too. What was refused or went wrong is logged by plugins/problems, what happened by the audit;
 * a 200 says nothing. So Fastify is given no logger: with one, it would make another for each request, and listen to the end of
 * each reply. A request's own log is silent.
 */
export const createLog = ({ level, logTo }: LogOptions): Logger =>
  pino({ level, serializers: { err: describeError } }, logTo)

/** What keeps the service from starting, in one line and without the statement of a query that failed. */
export function explainStart(error: unknown): string {
  return driverError(error).message ?? String(error)
}

/** Drivers hang much on their errors that must not be told: rows, commands with their arguments, whole clients. */
function describeError(error: Error) {
  const { name = 'Error', message = '', code, stack = '' } = driverError(error)
  return { type: name, message, code, stack }
}
