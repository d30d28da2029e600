/**
 * `npm run bench`: measures latchkey beside what it is compared with, on real servers of its own, and writes what it saw to
 * bench/results, a file for each chapter. Words name the chapters to run; --quick is a look within a minute, at the first two, and
 * writes nothing.
 */
import { execFileSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { ensureServers, installMissing, isOnPath } from '../test/fixtures/install.ts'
import { type Server, startPostgres, startRedis } from '../test/fixtures/servers.ts'
import { drawChart } from './chart.ts'
import { check } from './check.ts'
import { doors } from './doors.ts'
import { entries } from './entries.ts'
import { enumeration } from './enumeration.ts'
import { logins } from './logins.ts'
import { coreCount, otherCores } from './machine.ts'
import { type Chapter, type Table, toMarkdown } from './report.ts'
import { sessions } from './sessions.ts'
import { start } from './start.ts'
import { strangers } from './strangers.ts'
import { tabs } from './tabs.ts'
import { workers } from './workers.ts'

const chapters: Record<string, Chapter> = {
  check,
  strangers,
  workers,
  logins,
  sessions,
  doors,
  entries,
  tabs,
  enumeration,
  start,
}

const { values, positionals } = parseArgs({
  options: { quick: { type: 'boolean', default: false } },
  allowPositionals: true,
})
const all = Object.keys(chapters)
const names = positionals.length > 0 ? positionals : values.quick ? all.slice(0, 2) : all
const servers: Server[] = []

try {
  if (coreCount < 2) throw new Error('this needs two processors: one for the server, one for its load')
  const unknown = names.filter((name) => !Object.hasOwn(chapters, name))
  if (unknown.length > 0) throw new Error(`there is no chapter ${unknown.join()}, but ${all.join(', ')}`)
  ensureServers()
  const missing = installMissing('wrk', ['wrk'], () => isOnPath('wrk'))
  if (missing) throw new Error(missing)
  // Whatever is started from here, stores and load, leaves the server's core alone.
  execFileSync('taskset', ['-acp', otherCores, `${process.pid}`])
  for (const name of names) {
    const chapter = chapters[name] as Chapter
    const tables = await chapter({ quick: values.quick, startStores })
    for (const table of tables) process.stdout.write(`${toMarkdown(table)}\n`)
    if (!values.quick) await publish(name, tables)
  }
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`)
  process.exitCode = 1
} finally {
  await Promise.all(servers.map((server) => server.stop()))
}

async function startStores() {
  const [postgres, redis] = await Promise.all([startPostgres(), startRedis()])
  servers.push(postgres, redis)
  return { databaseUrl: postgres.url, redisUrl: redis.url }
}

async function publish(chapter: string, tables: readonly Table[]): Promise<void> {
  const folder = new URL('results/', import.meta.url)
  const [{ model = '' } = {}] = cpus()
  const head = `Measured by \`npm run bench -- ${chapter}\` on ${new Date().toISOString().slice(0, 10)}, on one core of ${coreCount} (${model.trim()}), Node ${process.versions.node}. In brackets,
what a tenth of the rounds was below, and a tenth above. Only ratios carry over to another machine.
`
  await mkdir(folder, { recursive: true })
  await writeFile(new URL(`${chapter}.md`, folder), [head, ...tables.map(toMarkdown)].join('\n'))
  for (const { chart } of tables)
    if (chart) await writeFile(new URL(`${chart.file}.svg`, folder), drawChart(chart))
}
