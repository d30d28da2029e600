/**
 * What argon2 costs by itself: asked over HTTP how many passwords it verifies in so many seconds, it does that and nothing
 * else, with the parameters and as many at a time as latchkey on the same cores.
 */
import { createServer } from 'node:http'
import argon2 from 'argon2'
import { loadConfig } from '../../src/config.ts'

const { memoryKib, passes, parallelism, concurrency } = loadConfig({}).passwords
const password = 'correct horse battery'
const hash = await argon2.hash(password, {
  type: argon2.argon2id,
  memoryCost: memoryKib,
  timeCost: passes,
  parallelism,
})

async function verifyUntil(end: number): Promise<number> {
  let verified = 0
  for (; performance.now() < end; verified++) await argon2.verify(hash, password)
  return verified
}

createServer(async (request, response) => {
  const seconds = Number(new URL(`http://localhost${request.url}`).searchParams.get('seconds'))
  const end = performance.now() + seconds * 1000
  const verified = await Promise.all(Array.from({ length: concurrency }, () => verifyUntil(end)))
  response.end(`${verified.reduce((sum, each) => sum + each, 0)}`)
}).listen(Number(process.env.PORT))
