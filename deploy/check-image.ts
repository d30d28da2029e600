/**
 * Proves the Dockerfile, compose.yaml and the Caddyfile on a machine without Docker, by doing what they say in a temporary
 * folder. What that cannot prove: the base image and its Node, the packages that apt-get would install, and the engine.
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ensureServers } from '../test/fixtures/install.ts'
import { readContext } from './check/build-context.ts'
import { checkCompose } from './check/compose.ts'
import { checkContainer } from './check/container.ts'
import { parseDockerfile } from './check/dockerfile.ts'
import { buildImage } from './check/image.ts'
import { checkProxy } from './check/proxy.ts'
import { assertAlone, createWorkshop } from './check/workshop.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const deploy = join(root, 'deploy')
const say = (line: string) => void process.stdout.write(`${line}\n`)

const workshop = createWorkshop()
try {
  assertAlone(workshop.folder)
  ensureServers()
  const stages = parseDockerfile(readFileSync(join(root, 'Dockerfile'), 'utf8'))
  const context = readContext(root)
  for (const { steps } of stages)
    for (const step of steps) if (step.kind === 'copy' && !step.from) step.sources.forEach(context.assertSent)
  say('every file that the Dockerfile copies is there, in git, and let in by .dockerignore')
  const image = await buildImage(stages, context, workshop, say)

  const scratch = join(workshop.folder, 'compose')
  mkdirSync(scratch)
  const file = join(deploy, 'compose.yaml')
  const compose = checkCompose({ root, file, image, scratch, issuer: 'https://auth.example.org' })
  say('compose.yaml: every file, name and setting is there, and the service would start with them')
  await checkProxy({ caddyfile: join(deploy, 'Caddyfile'), compose, image, workshop, say })

  await checkContainer(image, workshop, say)
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`)
  process.exitCode = 1
} finally {
  await workshop.close()
}
