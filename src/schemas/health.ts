import { Type } from 'typebox'

export const Live = Type.Object({ status: Type.Literal('live') })

export const Ready = Type.Object({
  status: Type.Literal('ready'),
  /** What answers whether a token was taken back. */
  mode: Type.String(),
  /** What does not answer now and is not needed for that. */
  missing: Type.Array(Type.String()),
})
