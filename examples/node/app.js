// A backend that takes latchkey's tokens. `latchkey clients create reports --scope revocations:read` gives it its id and its secret.
import Fastify from 'fastify'
import { createVerifier } from 'latchkey/verifier'

const { ISSUER, CLIENT_ID, CLIENT_SECRET, PORT = '4000' } = process.env

const verifier = createVerifier({
  issuer: ISSUER,
  audience: ISSUER,
  clientId: CLIENT_ID,
  clientSecret: CLIENT_SECRET,
})
await verifier.ready

const app = Fastify()

// Whoever has a live token.
await app.register(async (guarded) => {
  await guarded.register(verifier.fastify)
  guarded.get('/reports', async ({ tokenClaims }) => ({ sub: tokenClaims.sub }))
})

// Whoever has a live token, and this role.
await app.register(async (editors) => {
  await editors.register(verifier.fastify, { role: 'editor' })
  editors.post('/reports', async ({ tokenClaims }) => ({ written_by: tokenClaims.sub }))
})

app.addHook('onClose', async () => verifier.close())
process.once('SIGTERM', () => app.close())
await app.listen({ port: Number(PORT) })
