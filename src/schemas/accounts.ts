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

export const LoginBody = Type.Object(
  { username, password, remember: Type.Optional(Type.Boolean()) },
  { additionalProperties: false },
)
