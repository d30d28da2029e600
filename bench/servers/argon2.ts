/**
 * What argon2 costs by itself: asked over HTTP how many passwords it verifies in so many seconds, it does that and nothing
 * else, with the parameters and as many at a time as latchkey on the same cores. And what is left of that once each password comes
 * in a request of its own: a login that looks nobody up, counts nobody and issues nothing.
 */
import argon2 from 'argon2'
import Fastify from 'fastify'
import fastq from 'fastq'
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

const app = Fastify()
app.get<{ Querystring: { seconds: string } }>('/', async ({ query }) => {
  const end = performance.now() + Number(query.seconds) * 1000
  const verified = await Promise.all(Array.from({ length: concurrency }, () => verifyUntil(end)))
  return `${verified.reduce((sum, each) => sum + each, 0)}`
})

const line = fastq.promise((given: string) => argon2.verify(hash, given), concurrency)
app.post<{ Body: { password: string } }>('/login', async ({ body }) => ({
  verified: await line.push(body.password),
}))

await app.listen({ port: Number(process.env.PORT) })
