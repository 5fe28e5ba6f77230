"""An API as small as a test of the local API Gateway needs it."""

from __future__ import annotations

import copy
from typing import Any

ROLE = "arn:aws:iam::000000000000:role/ingest"
CORS = {"method.response.header.Access-Control-Allow-Origin": "'*'"}
GATEWAY_CORS = {"gatewayresponse.header.Access-Control-Allow-Origin": "'*'"}
TRACK_TEMPLATE = """\
#set($newline = $util.urlDecode('%0A'))
#set($userAgent = "$!context.identity.userAgent")
#if($userAgent.length() > 1024)
#set($userAgent = $userAgent.substring(0, 1024))
#end
#set($received = "request_id=$context.requestId extended_request_id=$context.extendedRequestId")
#set($sender = "ip=$!context.identity.sourceIp user_agent=$util.base64Encode($userAgent)")
#set($end = "sluice/end extended_request_id=$context.extendedRequestId")
#set($record = "sluice/1 $received time=$context.requestTimeEpoch $sender$newline$input.body$newline$end$newline")
{"DeliveryStreamName": "$stageVariables.deliveryStream", "Record": {"Data": "$util.base64Encode($record)"}}
"""
REFUSED_TEMPLATE = """\
#if($input.body.contains("1024000"))
{"message": "too large"}
#else
#set($context.responseOverride.status = 503)
{"message": "try again"}
#end
"""
BODY: dict[str, Any] = {
    "openapi": "3.0.1",
    "info": {"title": "test", "version": "1"},
    "x-amazon-apigateway-request-validators": {
        "body": {"validateRequestBody": True, "validateRequestParameters": False},
        "nothing": {"validateRequestBody": "false"},
    },
    "x-amazon-apigateway-request-validator": "body",
    "x-amazon-apigateway-gateway-responses": {
        "DEFAULT_4XX": {"responseParameters": GATEWAY_CORS},
        "DEFAULT_5XX": {"responseParameters": GATEWAY_CORS},
        "THROTTLED": {
            "responseParameters": {**GATEWAY_CORS, "gatewayresponse.header.Retry-After": "'1'"},
            "responseTemplates": {
                "application/json": '{"type":"$context.error.responseType","m":$context.error.messageString}'
            },
        },
    },
    "paths": {
        "/track": {
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Event"}}},
                },
                "responses": {
                    "202": {"headers": {"Access-Control-Allow-Origin": {"schema": {"type": "string"}}}},
                    "413": {"headers": {"Access-Control-Allow-Origin": {"schema": {"type": "string"}}}},
                    "503": {"headers": {"Access-Control-Allow-Origin": {"schema": {"type": "string"}}}},
                },
                "x-amazon-apigateway-integration": {
                    "type": "aws",
                    "httpMethod": "POST",
                    "uri": "arn:aws:apigateway:us-east-1:firehose:action/PutRecord",
                    "credentials": ROLE,
                    "passthroughBehavior": "never",
                    "requestParameters": {"integration.request.header.Content-Type": "'application/x-amz-json-1.1'"},
                    "requestTemplates": {"application/json": TRACK_TEMPLATE, "text/plain": TRACK_TEMPLATE},
                    "responses": {
                        r"2\d{2}": {
                            "statusCode": "202",
                            "responseParameters": CORS,
                            "responseTemplates": {"application/json": """{"recordId": "$input.path('$.RecordId')"}"""},
                        },
                        r"4\d{2}": {
                            "statusCode": 413,
                            "responseParameters": CORS,
                            "responseTemplates": {"application/json": REFUSED_TEMPLATE},
                        },
                        "default": {"statusCode": "503", "responseParameters": CORS},
                    },
                },
            },
            "options": {
                "responses": {"204": {"headers": {"Access-Control-Allow-Methods": {}}}},
                "x-amazon-apigateway-integration": {
                    "type": "mock",
                    "passthroughBehavior": "when_no_match",
                    "requestTemplates": {"application/json": '{"statusCode": 204}'},
                    "responses": {
                        "default": {
                            "statusCode": "204",
                            "responseParameters": {"method.response.header.Access-Control-Allow-Methods": "'POST'"},
                        }
                    },
                },
            },
        },
    },
    "components": {"schemas": {"Event": {"type": "object"}}},
}
OPERATION = ("paths", "/track", "post")
INTEGRATION = (*OPERATION, "x-amazon-apigateway-integration")


def body_with(*path: Any, value: Any) -> dict[str, Any]:
    """The API body with one value set, or deleted when the value is None."""
    body = copy.deepcopy(BODY)
    place: Any = body
    for key in path[:-1]:
        place = place.setdefault(key, {})
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return body
