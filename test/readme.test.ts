/** The README does what it says: its commands are run, and its tables name what there is. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { loadConfig } from '../src/config.ts'
import { embedded, startInstance } from './fixtures/app.ts'

const file = (name: string) => readFileSync(fileURLToPath(new URL(`../${name}`, import.meta.url)), 'utf8')
const readme = file('README.md')
const section = (title: string) => readme.split(`\n## ${title}\n`)[1]?.split('\n## ')[0] ?? ''

t.test('every command of "Use it" works, in order, on a service that has just started', async (t) => {
  const { url } = await startInstance(t, { stores: await embedded(t) })
  const commands = [...section('Use it').matchAll(/```sh\n(.*?)```/gs)].map(([, block]) => block)
  t.ok(commands.length >= 5)
  const script = commands.join('\necho\n').replaceAll('http://127.0.0.1:3000', url)
  const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', script])
  const replies = stdout.split(/(?<=\})\n*(?=\{)/).map((text) => JSON.parse(text))
  t.match(replies, [
    { username: 'ada', roles: [] },
    { token_type: 'Bearer', expires_in: 900, refresh_expires_in: 2_592_000 },
    { roles: [] },
    { username: 'ada' },
    { code: 'token_revoked' },
    { keys: [{ alg: 'ES256' }] },
    { status: 'live' },
    { status: 'ready' },
  ])
})

t.test('every setting that is read is in a table of settings, and none else', async (t) => {
  const read = new Set<string>()
  try {
    loadConfig(new Proxy({}, { get: (_env, name) => void read.add(String(name)) }))
  } catch {}
  const secrets = [...read].filter((name) => read.has(`${name}_FILE`))
  const plain = [...read].filter(
    (name) => !name.endsWith('_FILE') && !secrets.includes(name) && !/^UV_/.test(name),
  )
  const [, notSecret = '', secret = ''] = section('Settings').split('\n\n|')
  t.same(namesIn(notSecret), plain.sort())
  t.same(namesIn(secret), secrets.sort())
})

t.test('every outcome is in a table of errors, and none else', async (t) => {
  const codes = [...file('src/outcomes.ts').matchAll(/^ {2}\| '(\w+)'/gm)].map(([, code]) => code)
  const told = [...section('Errors').matchAll(/`([a-z_]+)`/g)].map(([, code]) => code as string)
  t.same([...new Set(told)].filter((word) => word !== 'code' && word !== 'request_id').sort(), codes.sort())
})

/** The settings that the first column of a table names, below its head. */
function namesIn(table: string): string[] {
  const cells = table
    .split('\n')
    .slice(2)
    .map((row) => row.replace(/^\|/, '').split('|')[0] ?? '')
  return cells
    .flatMap((cell) => [...cell.matchAll(/`([A-Z0-9_]+)`/g)].map(([, name]) => name as string))
    .sort()
}
