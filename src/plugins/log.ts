import type { FastifyServerOptions } from 'fastify'
import { LogController } from 'fastify'
import { driverError } from '../db/errors.ts'

export interface LogOptions {
  level: string
  /** In place of stdout, for tests. */
  logTo: { write(line: string): void } | undefined
}

/** What was refused or went wrong is logged by plugins/problems, what happened by the audit; a 200 says nothing. */
export const logging = ({
  level,
  logTo,
}: LogOptions): Pick<FastifyServerOptions, 'logger' | 'logController' | 'childLoggerFactory'> => ({
  logger: { level, serializers: { err: describeError }, ...(logTo && { stream: logTo }) },
  logController: new LogController({ disableRequestLogging: true }),
  // None for each request, for most log nothing. Whoever logs tells the request's id.
  childLoggerFactory: (logger) => logger,
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
