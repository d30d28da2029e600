import { Type } from 'typebox'

/** A reply without a body, in the words of the document. */
export const NoContent = (description: string) => Type.Unsafe<undefined>({ type: 'null', description })
