import { Type } from 'typebox'

const credentials = {
  client_id: Type.Optional(Type.String({ description: 'Unless it is in the header (HTTP Basic).' })),
  client_secret: Type.Optional(Type.String()),
}

export const TokenForm = Type.Object({
  grant_type: Type.String({ examples: ['client_credentials'] }),
  scope: Type.Optional(Type.String({ description: 'Without it, all that the client may have.' })),
  refresh_token: Type.Optional(Type.String()),
  ...credentials,
})

export const TokenReply = Type.Object(
  {
    access_token: Type.String(),
    token_type: Type.Literal('Bearer'),
    expires_in: Type.Integer({ description: 'Seconds.' }),
    scope: Type.Optional(Type.String()),
    refresh_token: Type.Optional(Type.String()),
  },
  { $id: 'TokenReply', description: 'What was granted (RFC 6749 §5.1).' },
)

export const OneTokenForm = Type.Object({
  token: Type.String({ description: 'An access token or a refresh token.' }),
  token_type_hint: Type.Optional(Type.String({ description: 'Ignored: what a token is can be seen.' })),
  ...credentials,
})

export const Introspection = Type.Object(
  {
    active: Type.Boolean(),
    token_type: Type.Optional(Type.Literal('Bearer')),
    iss: Type.Optional(Type.String()),
    aud: Type.Optional(Type.String()),
    sub: Type.Optional(Type.String()),
    client_id: Type.Optional(Type.String()),
    iat: Type.Optional(Type.Integer()),
    exp: Type.Optional(Type.Integer()),
    jti: Type.Optional(Type.String()),
    ver: Type.Optional(Type.Integer()),
    scope: Type.Optional(Type.String()),
    sid: Type.Optional(Type.String()),
    roles: Type.Optional(Type.Immutable(Type.Array(Type.String()))),
    auth_time: Type.Optional(Type.Integer()),
    amr: Type.Optional(Type.Immutable(Type.Array(Type.String()))),
    acr: Type.Optional(Type.String()),
  },
  {
    $id: 'Introspection',
    description: 'What is known of a token (RFC 7662 §2.2); of one that is dead, nothing but that.',
  },
)

export const ServerMetadata = Type.Object(
  {
    issuer: Type.String(),
    jwks_uri: Type.String(),
    token_endpoint: Type.String(),
    introspection_endpoint: Type.String(),
    revocation_endpoint: Type.String(),
    grant_types_supported: Type.Array(Type.String()),
    response_types_supported: Type.Array(Type.String(), { description: 'None: nobody is redirected here.' }),
    token_endpoint_auth_methods_supported: Type.Array(Type.String()),
    introspection_endpoint_auth_methods_supported: Type.Array(Type.String()),
    revocation_endpoint_auth_methods_supported: Type.Array(Type.String()),
    revocation_feed_endpoint: Type.String(),
    forward_auth_endpoint: Type.String(),
    scopes_supported: Type.Array(Type.String()),
    service_documentation: Type.String(),
  },
  { $id: 'ServerMetadata', description: 'Where everything is (RFC 8414).' },
)
