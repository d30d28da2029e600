import { Type } from 'typebox'

// Only the shape is said here. What a good username or password is, the accounts know: it depends on the settings.
const username = Type.String({ maxLength: 1024, examples: ['ada'] })
const password = Type.String({ maxLength: 1024, examples: ['correct horse battery'] })

export const RegistrationBody = Type.Object(
  {
    username,
    password,
    email: Type.Optional(Type.String({ format: 'email', maxLength: 254, examples: ['ada@example.org'] })),
  },
  { $id: 'Registration', additionalProperties: false },
)

export const Account = Type.Object(
  {
    id: Type.String({ format: 'uuid', description: 'The `sub` of its tokens.' }),
    username: Type.String({ description: 'In its canonical form.', examples: ['ada'] }),
    email: Type.Optional(Type.String({ examples: ['ada@example.org'] })),
    roles: Type.Array(Type.String()),
    created_at: Type.String({ format: 'date-time' }),
  },
  { $id: 'Account', description: 'An account, as its owner sees it.' },
)

export const LoginBody = Type.Object(
  {
    username,
    password,
    remember: Type.Optional(Type.Boolean({ description: 'Asks for a longer session.' })),
  },
  { $id: 'Login', additionalProperties: false },
)
