import { DrizzleQueryError } from 'drizzle-orm'

/** SQLSTATE classes that say "not now" rather than "not so": connection, rollback, resources, operator, system; read-only, silent too long. */
const temporary = /^(08|40|53|57|58)|^(25006|25P03)$/

const network = /^(ECONN\w+|ETIMEDOUT|EPIPE|EHOST\w+|ENET\w+|EAI_AGAIN|ENOTFOUND)$/

/** What the driver says when there is no connection to be had, or it broke; it has no codes for these. */
const noConnection =
  /^(timeout exceeded when trying to connect|Connection terminated|Query read timeout|Cannot use a pool)|not queryable$/

/** What Node and pg hang on their errors. */
interface DriverError {
  name?: string
  message?: string
  stack?: string
  /** A SQLSTATE, or what the network says. */
  code?: string
  constraint?: string
}

/** The driver's own error. Drizzle's wrapper repeats every parameter in its message and must never be logged. */
export function driverError(error: unknown): DriverError {
  return (error instanceof DrizzleQueryError ? error.cause : error) ?? {}
}

/** Whether an error means that the database cannot be reached or cannot answer now. Everything else is a bug. */
export function isDatabaseUnavailable(error: unknown): boolean {
  const { code = '', message = '' } = driverError(error)
  return network.test(code) || temporary.test(code) || noConnection.test(message)
}

/** Whether an insert met a row that has the same value under this unique constraint. */
export function isUniqueViolation(error: unknown, constraint: string): boolean {
  const found = driverError(error)
  return found.code === '23505' && found.constraint === constraint
}

/** Whether a statement met somebody else's change that its isolation does not let it see. It never happened. */
export const isSerializationFailure = (error: unknown): boolean => driverError(error).code === '40001'

/** Whether a named statement is not on this connection, or is already, although we were told otherwise. It never happened. */
export const isStatementLost = (error: unknown): boolean =>
  ['26000', '42P05'].includes(driverError(error).code ?? '')

/** Whether the role of this connection may not do that. */
export const isNotPermitted = (error: unknown): boolean => driverError(error).code === '42501'

/** In one line, for anyone who starts the service: what keeps it from its database, without statement or URL. */
export function explainDatabaseError(error: unknown): string {
  const { message, code } = driverError(error)
  return `the database (DATABASE_URL) cannot be used: ${message || code}`
}
