import type { SQL } from 'drizzle-orm'
import { PgDialect } from 'drizzle-orm/pg-core'
import type { Database } from './connect.ts'
import { isStatementLost } from './errors.ts'

/** @param values for the placeholders, as the driver takes them */
export type Prepared<Values, Row> = (db: Database, values: Values) => Promise<Row[]>

/**
 * A statement that is put together once, and not again at each execution: that takes longer than all else that this process
 * does for it.
 *
 * @param name with one, Postgres plans it once for each connection. For single statements, outside of transactions
 */
export function prepare<Values extends object, Row extends object>(
  statement: SQL,
  name?: string,
): Prepared<Values, Row> {
  const query = new PgDialect().sqlToQuery(statement)

  async function execute(db: Database, values: Values, name?: string) {
    const prepared = db._.session.prepareQuery(query, undefined, name, false)
    return ((await prepared.execute(values as Record<string, unknown>)) as { rows: Row[] }).rows
  }

  return (db, values) =>
    execute(db, values, name).catch((error: unknown) => {
      if (name === undefined || !isStatementLost(error)) throw error
      // Behind a pooler that knows no prepared statements, a connection is not always the same one.
      return execute(db, values)
    })
}
