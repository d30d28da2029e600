import { Type } from 'typebox'
import { SigningAlgorithm } from './tokens.ts'

const kid = Type.String({ pattern: '^[A-Za-z0-9_-]{43}$', description: 'The RFC 7638 thumbprint.' })

export const SigningKey = Type.Object(
  {
    kid,
    alg: SigningAlgorithm,
    state: Type.Unsafe<'next' | 'active' | 'retiring' | 'removed'>(
      Type.String({
        enum: ['next', 'active', 'retiring', 'removed'],
        description: '`next` is published and does not sign yet, `retiring` does not sign any more.',
      }),
    ),
    created_at: Type.String({ format: 'date-time' }),
    active_from: Type.Optional(
      Type.String({ format: 'date-time', description: 'When one that is next will sign.' }),
    ),
  },
  { $id: 'SigningKey', description: 'A key that signs access tokens, as an admin sees it.' },
)

export const SigningKeys = Type.Object({ keys: Type.Array(SigningKey) }, { $id: 'SigningKeys' })

export const KeyParams = Type.Object({ kid })

/** 4096 bits of RSA as a JWK are some 3 kB. */
export const NextKeyBody = Type.Unsafe<null | { private_key?: string }>({
  type: ['object', 'null'],
  properties: {
    private_key: Type.String({
      maxLength: 8192,
      description:
        'One that was made elsewhere, in PEM or as the text of a JWK: RSA of 2048 to 4096 bits, P-256 or Ed25519.',
    }),
  },
  additionalProperties: false,
  description: 'Nothing, for a key that is made here.',
  examples: [{}],
})
