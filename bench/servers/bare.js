/**
 * What Fastify costs by itself: a route that answers as GET /protected does, and asks nobody. In JavaScript, so that it starts
 * as what is built does. What keeps Node from becoming slower by chance, it has from us: else its speed would be either of two.
 */
import '../../dist/kept-tick.js'
import { randomUUID } from 'node:crypto'
import Fastify from 'fastify'
import { TokenHolder } from '../../dist/schemas/tokens.js'

const holder = {
  sub: randomUUID(),
  sid: randomUUID(),
  roles: [],
  exp: Math.floor(Date.now() / 1000) + 900,
}

const app = Fastify()
app.get('/protected', { schema: { response: { 200: TokenHolder } } }, (_request, reply) => {
  reply.send(holder)
})
await app.listen({ port: Number(process.env.PORT) })
