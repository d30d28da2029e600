/** Makes the pictures of the example that the README shows, by using it as people do, on a desk and on a phone. */
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { startExamplePage } from '../test/fixtures/example-page.ts'
import { findChromium } from '../test/fixtures/install.ts'

const folder = fileURLToPath(new URL('..', import.meta.url))
const { url, stop } = await startExamplePage(folder)
const browser = await chromium.launch({
  executablePath: process.env.TEST_CHROMIUM || (findChromium() as string),
  args: ['--no-sandbox'],
})
try {
  const page = await browser.newPage({ viewport: { width: 1024, height: 800 }, deviceScaleFactor: 2 })
  await page.goto(url)
  await page.getByLabel('Username', { exact: true }).fill('ada')
  await page.getByLabel('Password', { exact: true }).fill('correct horse battery')
  await page.getByLabel('Remember me on this device').check()
  await page.getByRole('button', { name: 'Sign up' }).click()
  await page.getByRole('button', { name: 'Ask a protected route' }).click()
  await page.getByText(/the next request renews it/).waitFor()
  await page.screenshot({ path: `${folder}examples/spa/desktop.png`, fullPage: true })

  const phone = await browser.newPage({
    viewport: { width: 390, height: 700 },
    deviceScaleFactor: 2,
    colorScheme: 'dark',
  })
  await phone.goto(url)
  await phone.getByRole('heading', { name: 'Welcome' }).waitFor()
  await phone.screenshot({ path: `${folder}examples/spa/phone.png` })
} finally {
  await browser.close()
  await stop()
}
