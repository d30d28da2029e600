import { Type } from 'typebox'
import { scopePattern } from '../bearer/scopes.ts'
import { Id } from './id.ts'

const scope = Type.String({ pattern: scopePattern })

export const ScopeParams = Type.Object({ scope })

export const ClientBody = Type.Object(
  {
    name: Type.String({ minLength: 1, maxLength: 200, examples: ['billing'] }),
    scopes: Type.Array(scope, { maxItems: 64, uniqueItems: true, examples: [['introspect', 'revoke']] }),
  },
  { $id: 'NewClient', additionalProperties: false },
)

const client = {
  client_id: Type.String({ format: 'uuid', description: 'Also the `sub` of its tokens.' }),
  name: Type.String(),
  scopes: Type.Array(Type.String()),
  status: Type.Unsafe<'active' | 'disabled'>(Type.String({ enum: ['active', 'disabled'] })),
  created_at: Type.String({ format: 'date-time' }),
}

export const ManagedClient = Type.Object(client, {
  $id: 'Client',
  description: 'The account of a service, as an admin sees it.',
})

export const ClientWithSecret = Type.Object(
  { ...client, client_secret: Type.String({ description: 'Shown this once.' }) },
  { $id: 'ClientWithSecret', description: 'The account of a service, with its newest secret.' },
)

export const ClientPage = Type.Object(
  {
    clients: Type.Array(ManagedClient),
    next_cursor: Type.Optional(Type.String({ description: 'Absent on the last page.' })),
  },
  { $id: 'ClientPage', description: 'Some of the accounts of services.' },
)

export const ClientPageQuery = Type.Object({ cursor: Type.Optional(Id) }, { additionalProperties: false })

export const ClientParams = Type.Object({ client_id: Id })
