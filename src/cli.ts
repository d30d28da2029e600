#!/usr/bin/env node
/** The second door into the same rooms: what an operator does from a shell. */
import './kept-tick.ts'
import { loadDatabaseUrl } from './config.ts'
import { migratePostgresSchema } from './db/migrate.ts'

const usage = `usage: latchkey            serves; the settings are in the environment
       latchkey migrate    brings the schema of DATABASE_URL up to date
`

const commands: Record<string, () => Promise<void>> = {
  async serve() {
    await import('./server.ts')
  },

  async migrate() {
    const url = loadDatabaseUrl(process.env)
    if (url === undefined)
      throw new Error('DATABASE_URL is not set: an embedded store is migrated when it starts')
    await migratePostgresSchema(url)
    process.stdout.write('the schema is up to date\n')
  },
}

const [name = 'serve', ...surplus] = process.argv.slice(2)
const command = surplus.length === 0 && Object.hasOwn(commands, name) ? commands[name] : undefined

if (!command) {
  process.stderr.write(usage)
  process.exitCode = 2
} else {
  try {
    await command()
  } catch (error) {
    process.stderr.write(`latchkey ${name}: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  }
}
