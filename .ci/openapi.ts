/**
 * `npm run openapi`: writes openapi.yaml, or the file that is named, from what the routes say. test/openapi.test.ts sees that the
 * two agree.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { buildApp } from '../src/app.ts'
import { loadConfig } from '../src/config.ts'

const [file = 'openapi.yaml'] = process.argv.slice(2)
const folder = await mkdtemp(join(tmpdir(), 'latchkey-openapi-'))

try {
  const app = await buildApp(
    loadConfig({ DATA_DIR: folder, LOG_LEVEL: 'error', ISSUER: 'http://127.0.0.1:3000' }),
  )
  const document = stringify(app.swagger(), { lineWidth: 0, aliasDuplicateObjects: false })
  await app.close()
  await writeFile(
    file,
    `# Written by \`npm run openapi\` from the routes and schemas in src. Change those instead.\n${document}`,
  )
} finally {
  await rm(folder, { recursive: true, force: true })
}
