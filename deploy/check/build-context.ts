/** What a build would be sent: the files that git tracks, less what .dockerignore keeps out. */
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, readFileSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

export interface BuildContext {
  /** @throws Error if there is no such file or folder, or none that git tracks and .dockerignore lets in */
  assertSent(source: string): void
  copy(source: string, target: string): void
}

export function readContext(root: string): BuildContext {
  const isIgnored = readDockerignore(readFileSync(join(root, '.dockerignore'), 'utf8'))
  const tracked = execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' }).split('\0')

  function find(source: string) {
    const path = source.replace(/^\.\/|\/$/g, '')
    if (!existsSync(join(root, path))) throw new Error(`COPY ${source}: there is no such file`)
    const isFolder = statSync(join(root, path)).isDirectory()
    const files = tracked.filter((file) => (isFolder ? file.startsWith(`${path}/`) : file === path))
    if (files.length === 0) throw new Error(`COPY ${source}: git does not track it`)
    const sent = files.filter((file) => !isIgnored(file) && existsSync(join(root, file)))
    if (sent.length === 0) throw new Error(`COPY ${source}: .dockerignore keeps it out`)
    return { path, isFolder, sent }
  }

  return {
    assertSent: (source) => void find(source),
    copy(source, target) {
      const { path, isFolder, sent } = find(source)
      for (const file of sent)
        cpSync(join(root, file), isFolder ? join(target, file.slice(path.length)) : fileIn(target, source))
    },
  }
}

/** Where a file goes: into the target if that is a folder, else by its name. */
export function fileIn(target: string, source: string): string {
  const isFolder = target.endsWith('/') || (existsSync(target) && statSync(target).isDirectory())
  return isFolder ? join(target, basename(source)) : target
}

/** The last pattern that matches a path, or a folder above it, decides. */
export function readDockerignore(text: string): (path: string) => boolean {
  const rules = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => ({ keeps: line.startsWith('!'), pattern: toPattern(line.replace(/^!/, '')) }))
  return (path) => {
    const paths = [path]
    for (let folder = dirname(path); folder !== '.'; folder = dirname(folder)) paths.push(folder)
    return rules.findLast(({ pattern }) => paths.some((each) => pattern.test(each)))?.keeps === false
  }
}

function toPattern(line: string): RegExp {
  if (/[[\]\\]/.test(line)) throw new Error(`.dockerignore: not understood: ${line}`)
  const parts = line.replace(/^\/|\/$/g, '').match(/\*\*\/|\*\*|\*|\?|[^*?]+/g) ?? []
  const wild: Record<string, string> = { '**/': '(.*/)?', '**': '.*', '*': '[^/]*', '?': '[^/]' }
  return new RegExp(`^${parts.map((part) => wild[part] ?? part.replace(/[.+^${}()|]/g, '\\$&')).join('')}$`)
}
