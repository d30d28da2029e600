/** Accounts of services. Their secrets are random, so a hash that is fast is good enough; each is shown once. */
import { randomUUID, timingSafeEqual } from 'node:crypto'
import { and, asc, eq, gt, isNull, lte, or } from 'drizzle-orm'
import type { Audit, Origin } from '../audit/events.ts'
import { isId, longestLifetimeSeconds } from '../bearer/claims.ts'
import { type Clock, inSeconds } from '../db/clock.ts'
import type { Database } from '../db/connect.ts'
import { durably } from '../db/durably.ts'
import { clientSecrets, clients } from '../db/tables.ts'
import { Outcome } from '../outcomes.ts'
import { generationEntry } from '../revocation/entries.ts'
import type { Revoke } from '../revocation/revoke.ts'
import { generateOpaqueToken, hashOpaqueToken } from '../tokens/opaque-tokens.ts'

/** A service that has proved who it is. */
export interface Client {
  id: string
  scopes: readonly string[]
  generation: number
}

/** A client, as an admin sees it. */
export interface ManagedClient {
  client_id: string
  name: string
  scopes: string[]
  status: 'active' | 'disabled'
  created_at: string
}

export interface ClientWithSecret extends ManagedClient {
  /** Told this once. */
  client_secret: string
}

/** @param by who does, for the audit */
export interface Clients {
  /** @throws Outcome `invalid_request` for a name that is none */
  create(
    client: { name: string; scopes: readonly string[] },
    by: string,
    origin?: Origin,
  ): Promise<ClientWithSecret>
  /** In the order of their ids, a page at a time. `cursor` is the `next_cursor` of the page before. */
  list(cursor?: string): Promise<{ clients: ManagedClient[]; next_cursor?: string }>
  /** Gives it another secret. Each one before is good for a while longer, for the reply may be lost. @throws Outcome `not_found` */
  renewSecret(id: string, by: string, origin?: Origin): Promise<ClientWithSecret>
  /** Nothing that it was issued is accepted any more when this resolves. @throws Outcome `not_found`, and what revoke throws */
  disable(id: string, by: string, origin?: Origin): Promise<void>
  /** @throws Outcome `invalid_client` for every cause alike */
  authenticate(id: string, secret: string): Promise<Client>
}

export interface ClientsOptions {
  db: Database
  clock: Clock
  audit: Audit
  revoke: Revoke
  /** How long a secret is good that another one has replaced. */
  overlapSeconds: number
}

const pageSize = 100
/** Short, and without what controls the terminal of whoever lists them. */
const goodName = /^\P{Cc}{1,200}$/u

type ClientRow = typeof clients.$inferSelect

const managed = ({ id, name, scopes, status, createdAt }: ClientRow): ManagedClient => ({
  client_id: id,
  name,
  scopes,
  status,
  created_at: createdAt.toISOString(),
})

export function createClients(options: ClientsOptions): Clients {
  const { db, clock, audit, revoke, overlapSeconds } = options
  const now = () => new Date(clock.now())

  async function insertSecret(tx: Database, clientId: string): Promise<string> {
    const secret = generateOpaqueToken()
    await tx.insert(clientSecrets).values({ hash: hashOpaqueToken(secret), clientId, createdAt: now() })
    return secret
  }

  async function lockActive(tx: Database, id: string): Promise<ClientRow> {
    if (!isId(id)) throw new Outcome('not_found')
    const [client] = await tx
      .select()
      .from(clients)
      .where(and(eq(clients.id, id), eq(clients.status, 'active')))
      .for('update')
    if (!client) throw new Outcome('not_found')
    return client
  }

  return {
    async create({ name, scopes }, by, origin) {
      if (!goodName.test(name))
        throw new Outcome('invalid_request', {
          detail: 'A name has 1 to 200 characters, all of them visible.',
        })
      const client = {
        id: randomUUID(),
        name,
        scopes: [...new Set(scopes)].sort(),
        generation: 1,
        status: 'active' as const,
        createdAt: now(),
      }
      const secret = await durably(db, async (tx) => {
        await tx.insert(clients).values(client)
        return await insertSecret(tx, client.id)
      })
      audit.record({ event: 'client.created', client: client.id, scopes: client.scopes, by }, origin)
      return { ...managed(client), client_secret: secret }
    },

    async list(cursor) {
      const page = await db
        .select()
        .from(clients)
        .where(cursor === undefined ? undefined : gt(clients.id, cursor))
        .orderBy(asc(clients.id))
        .limit(pageSize)
      const last = page.length === pageSize ? page.at(-1) : undefined
      return { clients: page.map(managed), ...(last && { next_cursor: last.id }) }
    },

    async renewSecret(id, by, origin) {
      const renewed = await durably(db, async (tx) => {
        const client = await lockActive(tx, id)
        const ofClient = eq(clientSecrets.clientId, client.id)
        await tx.delete(clientSecrets).where(and(ofClient, lte(clientSecrets.expiresAt, now())))
        await tx
          .update(clientSecrets)
          .set({ expiresAt: new Date(clock.now() + overlapSeconds * 1000) })
          .where(and(ofClient, isNull(clientSecrets.expiresAt)))
        return { ...managed(client), client_secret: await insertSecret(tx, client.id) }
      })
      audit.record({ event: 'client.secret_renewed', client: renewed.client_id, by }, origin)
      return renewed
    },

    async disable(id, by, origin) {
      await revoke({
        // Under which generation its tokens are turns out under the lock.
        entries: [],
        reason: 'client_disabled',
        ...(origin && { origin }),
        async within(tx) {
          const client = await lockActive(tx, id)
          await tx
            .update(clients)
            .set({ status: 'disabled', generation: client.generation + 1 })
            .where(eq(clients.id, client.id))
          return [generationEntry(client.id, client.generation, inSeconds(clock) + longestLifetimeSeconds)]
        },
      })
      audit.record({ event: 'client.disabled', client: id, by }, origin)
    },

    async authenticate(id, secret) {
      if (!isId(id)) throw new Outcome('invalid_client')
      const hash = hashOpaqueToken(secret)
      const found = await db
        .select({ client: clients, hash: clientSecrets.hash })
        .from(clients)
        .innerJoin(clientSecrets, eq(clientSecrets.clientId, clients.id))
        .where(
          and(
            eq(clients.id, id),
            eq(clients.status, 'active'),
            or(isNull(clientSecrets.expiresAt), gt(clientSecrets.expiresAt, now())),
          ),
        )
      const match = found.find((one) => timingSafeEqual(one.hash, hash))
      if (!match) throw new Outcome('invalid_client')
      const { scopes, generation } = match.client
      return { id: match.client.id, scopes, generation }
    },
  }
}
