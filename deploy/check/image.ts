/**
 * Builds the image's file systems as folders, by doing what the Dockerfile says with this machine's Node and compiler. No
 * step may name a path outside the working folder: here that would be the path of this machine.
 */
import { cpSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { installMissing, isOnPath } from '../../test/fixtures/install.ts'
import { type BuildContext, fileIn } from './build-context.ts'
import type { Command, HealthCheck, Stage, Step } from './dockerfile.ts'
import type { Workshop } from './workshop.ts'

export interface Image {
  /** The folder that stands for /. */
  root: string
  /** The working folder, as it is called in the image and where it really is. */
  workdir: string
  folder: string
  env: Record<string, string>
  args: Record<string, string>
  user: string
  ports: number[]
  command?: Command
  healthCheck?: HealthCheck
}

const longestStepSeconds = 300

/** @returns the last stage. @throws Error with what a step said if it fails */
export async function buildImage(
  stages: readonly Stage[],
  context: BuildContext,
  workshop: Workshop,
  say: (line: string) => void,
): Promise<Image> {
  const built = new Map<string, Image>()
  let last: Image | undefined
  for (const [index, stage] of stages.entries()) {
    const title = stage.name ?? `stage ${index + 1}`
    const image = createImage(join(workshop.folder, title.replace(' ', '-')), built.get(stage.base))
    for (const step of stage.steps) await take(step, image, title)
    if (stage.name) built.set(stage.name, image)
    last = image
  }
  if (!last) throw new Error('Dockerfile: no stage')
  return last

  async function take(step: Step, image: Image, title: string): Promise<void> {
    switch (step.kind) {
      case 'arg':
        if (step.value !== undefined) image.args[step.name] = step.value
        return
      case 'env':
        Object.assign(image.env, step.values)
        return
      case 'workdir':
        image.workdir = step.path
        image.folder = join(image.root, step.path)
        mkdirSync(image.folder, { recursive: true })
        return
      case 'user':
        image.user = step.name
        return
      case 'expose':
        image.ports.push(step.port)
        return
      case 'healthcheck':
        image.healthCheck = step.check
        return
      case 'cmd':
        image.command = step.command
        return
      case 'copy':
        return copy(step, image)
      case 'run': {
        const packages = systemPackages(step.script)
        if (packages) {
          const absent = packages.filter((name) => !isOnPath(name))
          const missing = installMissing(absent.join(', '), absent, () => absent.every(isOnPath))
          if (missing) throw new Error(`${missing}; the stage ${title} installs it, and needs it here, too`)
          return say(`${title}: skipped, as these are here: ${packages.join(', ')} (RUN ${step.script})`)
        }
        const start = Date.now()
        await run(step.script, image)
        return say(`${title}: RUN ${step.script} (${Math.round((Date.now() - start) / 1000)} s)`)
      }
    }
  }

  function copy(step: Step & { kind: 'copy' }, image: Image): void {
    const target = within(image, step.target) + (step.target.endsWith('/') ? '/' : '')
    const from = step.from === undefined ? undefined : built.get(step.from)
    if (step.from !== undefined && !from)
      throw new Error(`COPY --from=${step.from}: there is no such stage before`)
    for (const source of step.sources) {
      if (!from) {
        context.copy(source, target)
        continue
      }
      const origin = within(from, source)
      if (!existsSync(origin)) throw new Error(`COPY ${source}: the stage ${step.from} has no such file`)
      const place = statSync(origin).isDirectory() ? target : fileIn(target, source)
      mkdirSync(dirname(place), { recursive: true })
      cpSync(origin, place, { recursive: true, verbatimSymlinks: true })
    }
  }

  async function run(script: string, image: Image): Promise<void> {
    if (/(^|[\s"'=:;&|(<>])\/(?!dev\/null\b)/.test(script))
      throw new Error(`RUN ${script}: a path of the image, which is not this machine's`)
    const program = workshop.start(['sh', '-c', script], {
      cwd: image.folder,
      env: { ...machineEnvironment(), ...image.args, ...withOurHeaders(image.env) },
    })
    const { code, signal } = await program.endsWithin(longestStepSeconds)
    if (code !== 0) throw new Error(`RUN ${script}: ended with ${code ?? signal}\n${program.said()}`)
  }
}

function createImage(root: string, base: Image | undefined): Image {
  mkdirSync(root)
  if (!base) return { root, workdir: '/', folder: root, env: {}, args: {}, user: 'root', ports: [] }
  cpSync(base.root, root, { recursive: true, verbatimSymlinks: true })
  // What ARG says holds within its own stage only.
  const { folder, ...inherited } = structuredClone(base)
  return { ...inherited, root, folder: join(root, base.workdir), args: {} }
}

/** Where a path of the image is here. It cannot lead out of the image. */
const within = (image: Image, path: string): string => join(image.root, posix.resolve(image.workdir, path))

/** What a step installs with the image's package manager, if that is all it does. */
function systemPackages(script: string): string[] | undefined {
  if (!script.includes('apt-get')) return undefined
  const packages: string[] = []
  for (const command of script.split(' && ')) {
    const [, names] = /^apt-get install(?: --?[\w-]+)* ((?:[\w.+-]+ ?)+)$/.exec(command) ?? []
    if (names) packages.push(...names.split(' '))
    else if (!['apt-get update', 'rm -rf /var/lib/apt/lists/*'].includes(command))
      throw new Error(`RUN ${script}: give apt-get a step of its own`)
  }
  return packages
}

/**
 * What a step needs to know of this machine, and nothing that it got from the repository: npm puts its programs on the PATH
 * and its settings into the environment of whatever it runs.
 */
export function machineEnvironment(): Record<string, string> {
  const wanted =
    /^(HOME|LANG|TMPDIR|(https?|no)_proxy|NODE_EXTRA_CA_CERTS|SSL_CERT_\w+|npm_config_(registry|cafile|cache|userconfig|globalconfig))$/i
  const env = Object.entries(process.env).filter(([name]) => wanted.test(name)) as [string, string][]
  // What npm has fetched before is as good: the lock file says what it must be.
  const npm = { npm_config_prefer_offline: 'true', npm_config_audit: 'false' }
  return { ...Object.fromEntries(env), ...npm, PATH: machinePath() }
}

/** With the Node that runs this one first. */
export function machinePath(): string {
  const folders = (process.env.PATH ?? '').split(':').filter((folder) => !folder.includes('node_modules'))
  return [dirname(process.execPath), ...folders].join(':')
}

/** Node is somewhere else in the image. Without its headers here, node-gyp fetches them. */
function withOurHeaders(env: Record<string, string>): Record<string, string> {
  const { npm_config_nodedir: theirs, ...rest } = env
  const prefix = dirname(dirname(process.execPath))
  const isHere = existsSync(join(prefix, 'include', 'node', 'node_api.h'))
  return theirs !== undefined && isHere ? { ...rest, npm_config_nodedir: prefix } : rest
}
