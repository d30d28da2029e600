import { Type } from 'typebox'

/** An id that is asked for. The format alone would take `urn:uuid:…` too, which Postgres does not. */
export const Id = Type.String({ format: 'uuid', maxLength: 36 })
