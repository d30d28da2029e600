-- `http-request lua.ask PATH` asks latchkey, and tells the client itself if that refuses.
local latchkey = "http://" .. os.getenv("LATCHKEY")
local identity = { "x-auth-subject", "x-auth-session", "x-auth-roles", "x-auth-jti" }
local refusal = { "content-type", "cache-control", "www-authenticate", "retry-after" }

core.register_action("ask", { "http-req" }, function(txn, path)
  local answer = core.httpclient():get({
    url = latchkey .. path,
    headers = {
      -- All that came: latchkey believes none of two.
      ["authorization"] = txn.http:req_get_headers()["authorization"],
      -- Whose forgeries latchkey counts: name this proxy in its TRUST_PROXY.
      ["x-forwarded-for"] = { txn.sf:src() },
    },
    -- In milliseconds, and four times: HAProxy tries again.
    timeout = 1000,
  })
  local status, headers = answer.status, answer.headers

  if status == 200 then
    for _, name in ipairs(identity) do txn.http:req_set_header(name, headers[name][0]) end
    txn:set_var("txn.admitted", true)
  -- HAProxy has a 503 of its own, for nobody there.
  elseif status == 401 or status == 403 or (status == 503 and headers["retry-after"]) then
    local reply = txn:reply({ status = status, body = answer.body })
    for _, name in ipairs(refusal) do
      if headers[name] then reply:add_header(name, headers[name][0]) end
    end
    txn:done(reply)
  end
end, 1)
