// Starts latchkey and the page, each on an origin of its own. `npm run example` has built what it needs.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { fileURLToPath } from 'node:url'

const { PORT = '3000', PAGE_PORT = '5173' } = process.env
const service = `http://localhost:${PORT}`
const page = `http://localhost:${PAGE_PORT}`
const here = (path) => fileURLToPath(new URL(path, import.meta.url))

const html = (await readFile(here('index.html'), 'utf8')).replace('http://localhost:3000', service)
const [, importMap] = /<script type="importmap">([\s\S]*?)<\/script>/.exec(html)

const files = {
  '/app.js': ['app.js', 'text/javascript'],
  '/style.css': ['style.css', 'text/css'],
  '/latchkey-browser.js': ['../../dist/sdk/browser.js', 'text/javascript'],
}
/** A script that got in from elsewhere could ask in the name of whoever is logged in: this keeps it out. */
const policy = [
  "default-src 'none'",
  `script-src 'self' 'sha256-${createHash('sha256').update(importMap).digest('base64')}'`,
  "style-src 'self'",
  'img-src data:',
  `connect-src ${service}`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

const latchkey = spawn(process.execPath, [here('../../dist/server.js')], {
  env: { ...process.env, PORT, ISSUER: service, CORS_ORIGINS: page, APP_URL: page, SERVICE_NAME: 'Notebook' },
  stdio: 'inherit',
})
const server = createServer(async ({ url }, response) => {
  const { pathname } = new URL(url, page)
  const [file, type] = files[pathname] ?? []
  if (!file && pathname !== '/') return response.writeHead(404).end()
  response.setHeader('content-security-policy', policy)
  response.setHeader('content-type', `${type ?? 'text/html'}; charset=utf-8`)
  response.end(file ? await readFile(here(file)) : html)
}).listen(Number(PAGE_PORT), 'localhost', () => process.stdout.write(`The page is on ${page}\n`))

server.once('error', ({ message }) => {
  process.stderr.write(`The page cannot be served: ${message}. PAGE_PORT chooses another port.\n`)
  latchkey.kill('SIGTERM')
  latchkey.once('exit', () => process.exit(1))
})

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => latchkey.kill('SIGTERM'))
latchkey.once('exit', (code) => {
  server.close()
  server.closeAllConnections()
  process.exitCode = code ?? 1
})
