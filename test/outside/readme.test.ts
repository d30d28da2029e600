/** The README does what it says: its commands are run, and its tables name what there is. */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { loadConfig } from '../../src/config.ts'
import { postgresAndRedis, withClient } from '../fixtures/app.ts'
import { getProtected, logIn, post, registerAndLogIn } from '../fixtures/client.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))
const file = (name: string) => readFileSync(join(root, name), 'utf8')
const readme = file('README.md')
const section = (title: string) => readme.split(`\n## ${title}\n`)[1]?.split('\n## ')[0] ?? ''

/** A fenced block of the README, and the section that it stands in. */
const blocks = readme.split(/^## /m).flatMap((part) => {
  const title = part.split('\n')[0] as string
  return [...part.matchAll(/^```(\w*)\n(.*?)^```/gms)].map(([, language, text]) => ({
    title,
    language,
    text,
  }))
}) as { title: string; language: string; text: string }[]
const commandsOf = (title: string) =>
  blocks.filter((block) => block.title === title && block.language === 'sh').map(({ text }) => text)

t.test('every command is run by these tests, or by CI, or needs Docker and says so', async (t) => {
  const titles = new Set(blocks.filter(({ language }) => language === 'sh').map(({ title }) => title))
  t.strictSame([...titles], ['Run it', 'Use it', 'Running it for real', 'Services', 'People', 'Keys'])
  t.strictSame([...new Set(blocks.map(({ language }) => language))].sort(), [
    'js',
    'json',
    'mermaid',
    'nginx',
    'python',
    'sh',
    'sql',
    'ts',
  ])

  const [start, startWithAdmin, test, ...others] = commandsOf('Run it')
  t.strictSame(
    [start, test, others],
    ['npm ci && npm start\n', 'npm ci && npm test\nnpm run test:outside\n', []],
  )
  t.match(startWithAdmin, / npm start\n$/)
  t.match(file('.ci/run'), /^npm ci\nnpm test\nnpm run test:outside\n/m)

  const [, ...docker] = commandsOf('Running it for real')
  for (const text of docker) t.match(text, /^docker /)
  t.match(section('Running it for real'), /needs Docker, and so is not run by the tests/)
})

t.test(
  'every command of "Use it" works, in order, on a service that was just started as "Run it" says',
  async (t) => {
    const cwd = checkOut(t)
    const [start = '', startWithAdmin = ''] = commandsOf('Run it')
    const first = await serve(t, start.replace('npm ci && ', ''), { cwd })
    t.equal((await fetch(`${first.url}/docs`)).status, 200)
    await first.stop()
    const { url, stop } = await serve(t, startWithAdmin, { cwd, isBuilt: true })

    const script = commandsOf('Use it').join('\necho\n').replaceAll('http://127.0.0.1:3000', url)
    const { stdout } = await run('bash', ['-euo', 'pipefail', '-c', script])
    const replies = stdout.split(/(?<=\})\n*(?=\{)/).map((text) => JSON.parse(text))
    t.match(replies, [
      { username: 'ada', roles: [] },
      { token_type: 'Bearer', expires_in: Number, refresh_expires_in: 2_592_000 },
      { roles: [] },
      { username: 'ada' },
      { token_type: 'Bearer', session_id: replies[1].session_id },
      { sessions: [{ current: true }, { remember: true }] },
      { recovery_codes: Array },
      { methods: ['totp', 'recovery_code'], recovery_codes_left: 9 },
      { code: 'token_revoked' },
      { users: [{ username: 'ada' }, { username: 'grace', roles: ['admin'] }] },
      { username: 'ada', roles: ['editor'] },
      { sessions: [] },
      { sessions: [] },
      { username: 'ada', status: 'disabled' },
      { events: Array },
      { active: false },
      { events: [{}, {}, {}], more_available: true },
      { keys: [{ alg: 'ES256' }] },
      { openapi: /^3\.1/ },
      { status: 'live' },
      { status: 'ready' },
    ])
    t.equal(replies.length, 21)
    await stop()
  },
)

t.test('it runs for real as it says, and a restored backup is made safe as it says', async (t) => {
  const cwd = checkOut(t)
  const { env } = await postgresAndRedis(t)
  const [commands = ''] = commandsOf('Running it for real')
  const { stdout: secret } = await run('bash', ['-c', /\$\((openssl.*?)\)/.exec(commands)?.[1] ?? ''])
  // The same secret at both starts: it is one to keep.
  const script = commands
    .replace(/postgres:\S+/, env.DATABASE_URL as string)
    .replace(/redis:\S+/, env.REDIS_URL as string)
    .replace(/\$\(openssl.*?\)/, secret.trim())

  const first = await serve(t, script, { cwd })
  const { token, refreshToken } = await registerAndLogIn(first.url)
  await first.stop()
  const [safe] = blocks.filter(({ language }) => language === 'sql')
  await withClient(env.DATABASE_URL as string, (client) => client.query(safe?.text as string))
  // It is built by now.
  const keys = commandsOf('Keys').join('\n')
  const settings = script.replace(/^(npm|node) .*$/gm, '')
  const { stdout } = await run('bash', ['-euo', 'pipefail', '-c', settings + keys], { cwd })
  t.match(
    stdout.split('\n').map((line) => line.split('  ')[2] ?? line),
    ['active', 'next', /^\[\{.*"state":"next"/, ''],
  )
  const services = await run(
    'bash',
    ['-euo', 'pipefail', '-c', settings + commandsOf('Services').join('\n')],
    { cwd },
  )
  t.match(
    services.stdout,
    /^\S{36} {2}billing {2}introspect,revoke {2}active {2}\S+Z {2}\S{43}\n\[\{.*"name":"billing"/,
  )
  const [account] = blocks.filter(({ language }) => language === 'json')
  writeFileSync(join(cwd, 'users.jsonl'), account?.text as string)
  const people = await run(
    'bash',
    [
      '-euo',
      'pipefail',
      '-c',
      `${settings}${commandsOf('People').join('')}node dist/cli.js users import users.jsonl`,
    ],
    { cwd },
  )
  t.match(
    people.stdout,
    / {2}grete {2}[\s\S]*"username":"grete"[\s\S]*\n\n\S{36} {2}grete .* {2}disabled\n1 accounts made\n$/,
  )
  const second = await serve(t, script.replace('npm run build\n', ''), { cwd })
  t.equal((await getProtected(second.url, token)).body.code, 'token_invalid')
  t.equal(
    (await post(second.url, '/refresh', { refresh_token: refreshToken })).body.code,
    'refresh_token_invalid',
  )
  t.equal((await getProtected(second.url, (await registerAndLogIn(second.url)).token)).status, 200)
  t.ok(
    await logIn(second.url, { username: 'ada', password: 'correct horse battery' }),
    'who came from elsewhere',
  )
  await second.stop()
})

t.test('it is started by the same flags everywhere', async (t) => {
  const { start } = JSON.parse(file('package.json')).scripts
  t.match(commandsOf('Running it for real')[0], new RegExp(`^${start}$`, 'm'))
  t.match(file('Dockerfile'), `CMD ${JSON.stringify(start.split(' ')).replaceAll(',', ', ')}`)
})

t.test('what is shown for nginx, Node and Python are the files that other tests run', async (t) => {
  const shown = (wanted: string) => blocks.find(({ language }) => language === wanted)?.text
  t.equal(shown('nginx'), file('deploy/forward-auth/nginx.conf')) // test/proxies.test.ts
  t.equal(shown('js'), file('examples/node/app.js')) // test/consumers.test.ts
  t.equal(shown('python'), file('examples/flask/app.py')) // test/consumers.test.ts
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

/** The tree as a newcomer has it, after `npm ci`: no leftovers of ours but what that installs. */
function checkOut(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'latchkey-readme-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const leftovers = ['.git', '.tap', 'data', 'dist', 'node_modules'].map((name) => join(root, name))
  cpSync(root, folder, { recursive: true, filter: (path) => !leftovers.includes(path) })
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  return folder
}

/** Runs commands of which the last one serves, until it listens; on a free port, and for the length of the test at most. */
async function serve(t: Test, commands: string, { cwd, isBuilt }: { cwd: string; isBuilt?: boolean }) {
  // Without scripts, `npm start` starts and does not build before it.
  const scripts = { npm_config_ignore_scripts: String(isBuilt ?? false) }
  const shell = spawn('bash', ['-euo', 'pipefail', '-c', commands], {
    cwd,
    env: { PATH: process.env.PATH, HOME: process.env.HOME, PORT: '0', ...scripts },
    // A group of its own: npm and bash do not pass signals on.
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const signal = (name: NodeJS.Signals) =>
    shell.exitCode === null && shell.signalCode === null && process.kill(-(shell.pid as number), name)
  t.teardown(() => signal('SIGKILL'))
  let url: string | undefined
  for await (const line of createInterface({ input: shell.stdout })) {
    url = /listening on (http:[^"]+)/.exec(line)?.[1]
    if (url) break
  }
  if (!url) throw new Error(`nothing listens after: ${commands}`)
  shell.stdout.resume()
  return {
    url,
    async stop() {
      const closed = once(shell, 'close')
      signal('SIGTERM')
      await closed
    },
  }
}
