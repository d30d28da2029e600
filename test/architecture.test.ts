/** The house rules of src: who may import whom, and what must not be in the lock file. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'

const root = fileURLToPath(new URL('..', import.meta.url))
const src = join(root, 'src')

/** One ordered list, so that a circle cannot be written: an area imports itself and what stands left of it. */
const areas = ['db', 'audit', 'revocation', 'tokens', 'clients', 'sessions', 'mail', 'accounts']
const leaves = ['outcomes', 'bearer', 'redis-address']

const mayImport: Record<string, readonly string[]> = {
  outcomes: [],
  bearer: ['bearer'],
  'redis-address': [],
  ...Object.fromEntries(areas.map((area, i) => [area, [...areas.slice(0, i + 1), ...leaves]])),
  settings: [],
  'compound-settings': ['settings', 'bearer', 'redis-address'],
  config: ['bearer', 'settings', 'compound-settings', 'redis-address'],
  plugins: [...areas, ...leaves, 'plugins', 'config'],
  schemas: ['schemas', 'bearer'],
  routes: ['schemas', 'outcomes'],
  sdk: ['sdk', 'bearer'],
  app: ['plugins', 'routes', 'config'],
  workers: ['plugins', 'config'],
  'kept-tick': [],
  server: ['kept-tick', 'app', 'workers', 'config'],
  commands: ['app', 'bearer', 'db', 'config', 'outcomes', 'plugins', 'schemas', 'server'],
  cli: ['kept-tick', 'commands'],
}

const withoutFramework = [...areas, ...leaves, 'settings', 'compound-settings', 'config']

interface SourceFile {
  path: string
  /** The folder directly below src, or the file's own name if it stands there. */
  part: string
  text: string
  imports: string[]
}

const partOf = (path: string) => (relative(src, path).split(sep)[0] as string).replace(/\.ts$/, '')

const files: SourceFile[] = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => {
    const path = join(src, name)
    const text = readFileSync(path, 'utf8')
    const imports = ts.preProcessFile(text).importedFiles.map(({ fileName }) => fileName)
    return { path, part: partOf(path), text, imports }
  })

t.test('every part of src has its rule', async (t) => {
  t.same([...new Set(files.map(({ part }) => part))].sort(), Object.keys(mayImport).sort())
})

t.test('imports go one way', async (t) => {
  for (const { path, part, imports } of files) {
    for (const name of imports.filter((name) => name.startsWith('.'))) {
      const target = partOf(join(dirname(path), name))
      t.ok(mayImport[part]?.includes(target), `${relative(root, path)} may import ${name}`)
    }
  }
})

t.test('the core knows no Fastify', async (t) => {
  for (const { path, part, imports } of files) {
    if (!withoutFramework.includes(part)) continue
    const framework = imports.filter((name) => /^(@?fastify\b|@fastify\/)/.test(name))
    t.same(framework, [], `${relative(root, path)} stands without the framework`)
  }
})

t.test('only the process reads its environment, and only the process ends itself', async (t) => {
  for (const { path, part, text } of files) {
    if (part !== 'server' && part !== 'commands')
      t.notMatch(text, /process\.env|process\.exit\b/, relative(root, path))
  }
})

t.test('nothing in src is a barrel, a drawer or a test', async (t) => {
  for (const { path, text, imports } of files) {
    t.notMatch(text, /^export \* from|^export \{[^}]*\} from/m, relative(root, path))
    t.notMatch(path, /\/(utils?|helpers?|common|misc|index)(\.ts|\/)/)
    t.notOk(imports.some((name) => name.includes('/test/')))
  }
})

/** The lowest versions without known holes in what this service relies on. */
const floors: Record<string, string> = {
  '@fastify/jwt': '10.2.5',
  '@fastify/proxy-addr': '5.1.1',
  'drizzle-orm': '0.45.2',
  'fast-jwt': '6.3.4',
  fastify: '5.12.6',
  ioredis: '6.0.0',
}

t.test('the lock file has no version with a known hole', async (t) => {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version?: string }>
  }
  for (const [name, floor] of Object.entries(floors)) {
    const found = Object.entries(packages).filter(([path]) => path.endsWith(`node_modules/${name}`))
    t.not(found.length, 0, `${name} is locked`)
    for (const [path, { version = '' }] of found)
      t.ok(isAtLeast(version, floor), `${path} ${version} >= ${floor}`)
  }
  // The binary that 0.45 ships crashes on load on Debian 12.
  t.equal(packages['node_modules/argon2']?.version, '0.44.0')
})

function isAtLeast(version: string, floor: string): boolean {
  return version.localeCompare(floor, 'en', { numeric: true }) >= 0
}
