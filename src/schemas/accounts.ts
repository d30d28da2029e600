import { Type } from 'typebox'

// Only the shape is said here. What a good username or password is, the accounts know: it depends on the settings.
const username = Type.String({ maxLength: 1024 })
const password = Type.String({ maxLength: 1024 })

export const RegistrationBody = Type.Object(
  { username, password, email: Type.Optional(Type.String({ format: 'email', maxLength: 254 })) },
  { additionalProperties: false },
)

export const Account = Type.Object({
  id: Type.String({ format: 'uuid' }),
  username: Type.String(),
  email: Type.Optional(Type.String()),
  roles: Type.Array(Type.String()),
  created_at: Type.String({ format: 'date-time' }),
})

/** A grammar that no header or list can be split by. */
const role = Type.String({ pattern: '^[a-z][a-z0-9:._-]{0,63}$' })

export const ManagedAccount = Type.Object({
  ...Account.properties,
  status: Type.Unsafe<'active' | 'disabled'>({ type: 'string', enum: ['active', 'disabled'] }),
})

export const AccountPage = Type.Object({
  users: Type.Array(ManagedAccount),
  /** Absent on the last page. */
  next_cursor: Type.Optional(Type.String()),
})

/** Without NUL, which Postgres does not take. */
const cursor = Type.String({ minLength: 1, maxLength: 1024, pattern: '^[^\\u0000]*$' })

export const AccountPageQuery = Type.Object(
  { cursor: Type.Optional(cursor) },
  { additionalProperties: false },
)

/** The format alone would take a URN too, which Postgres does not. */
export const AccountParams = Type.Object({ id: Type.String({ format: 'uuid', maxLength: 36 }) })

export const RolesBody = Type.Object(
  { roles: Type.Array(role, { maxItems: 32, uniqueItems: true }) },
  { additionalProperties: false },
)

export const LoginBody = Type.Object(
  { username, password, remember: Type.Optional(Type.Boolean()) },
  { additionalProperties: false },
)
